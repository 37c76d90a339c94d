"""Standard output and error that may be closed, full, or a pipe nobody reads: the failure is kept, not raised."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

BROKEN_PIPE = 141
"""Exit code of a program whose output nobody reads any more, as shells report it: 128 plus the signal's number."""


class GuardedStream:
    """A text stream that saves its first error, and writes nothing after it.

    Every write is flushed, so that a result is passed on at once and a failure belongs to the line that met it.

    Attributes:
        error: the first error, or `None`.
    """

    def __init__(self, stream: Any) -> None:
        self.error: OSError | None = None
        if stream is None:
            self.error = OSError(errno.EBADF, "it is closed")
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write a text, unless an earlier one failed."""
        if self.error is None:
            self._attempt(lambda: self._stream.write(text))
            self._attempt(self._stream.flush)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        if self.error is None:
            self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.error = error
            self._drop()

    def _drop(self) -> None:
        """Send what is still buffered nowhere, else the interpreter would fail with it when it exits."""
        with suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[GuardedStream]:
    """Guard standard output and error inside the block; yield the guarded standard output."""
    before = sys.stdout, sys.stderr
    _fill_closed_descriptors()
    out, err = GuardedStream(sys.stdout), GuardedStream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        sys.stdout, sys.stderr = before


class _OfThisThread:
    """Standard output as the thread sees it that made this; what other threads print goes to standard error."""

    def __init__(self, out: Any) -> None:
        self._out, self._thread = out, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out if threading.get_ident() == self._thread else sys.stderr, name)


@contextmanager
def output_of_this_thread() -> Iterator[None]:
    """Keep standard output for the results of this thread: Ray prints its messages there from another one."""
    before = sys.stdout
    sys.stdout = _OfThisThread(before)
    try:
        yield
    finally:
        sys.stdout = before


def _fill_closed_descriptors() -> None:
    """Open closed standard descriptors on the null device, so that no file of a run gets the number of a stream."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest free number
