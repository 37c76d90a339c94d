"""Turns Ctrl-C, termination and a closed terminal into an interrupt, which an iteration in progress delays."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from stylescore_apply.storage.files import SIGNALS

UNWINDING_SECONDS = 1.0
"""After an interrupt, so long no other signal is heeded: the state is on its way to the disk."""
ERROR_STREAM = 2


class Interrupts:
    """Handles signals inside its `with` block: each interrupts at once, but the first one in a delayed part.

    Attributes:
        requested: whether a signal has arrived that a delayed part is to heed.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.requested = False
        self._quiet = quiet
        self._end: str | None = None
        self._raised = -UNWINDING_SECONDS
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Install the signal handlers; a hang-up that is ignored, as under `nohup`, stays so."""
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS if not _is_ignored(number)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def delayed(self, end: str) -> Iterator[None]:
        """Let the first signal in the block set `requested` only.

        Args:
            end: what the block ends after, in words; the first signal prints it at once.
        """
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def delay_until(self, end: str) -> None:
        """Name something else that the delayed part in progress ends after."""
        self._end = end

    def raise_if_requested(self) -> None:
        """Raise `KeyboardInterrupt` if a signal has arrived."""
        if self.requested:
            self._raise()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if _is_hang_up(number):
            _replace_closed_streams()
        if time.monotonic() - self._raised < UNWINDING_SECONDS:
            return
        if self.requested or self._end is None:
            self._raise()
        self.requested = True
        if not self._quiet:
            _write_now(f"stopping after this {self._end}; Ctrl-C again stops at once")

    def _raise(self) -> None:
        self._raised = time.monotonic()
        raise KeyboardInterrupt


def _is_hang_up(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None)


def _is_ignored(number: int) -> bool:
    return _is_hang_up(number) and signal.getsignal(number) == signal.SIG_IGN


def _write_now(line: str) -> None:
    """Write a line to stderr past Python's buffer, which a signal's handler must not use; a bar's line is replaced."""
    start = "\r\x1b[2K" if os.isatty(ERROR_STREAM) else ""
    try:
        os.write(ERROR_STREAM, f"{start}{line}\n".encode())
    except OSError:
        _replace_closed_streams()


def _replace_closed_streams() -> None:
    """Send what is printed to nowhere where the terminal is gone, so that no print fails and the state is saved."""
    for stream in (1, ERROR_STREAM):
        try:
            os.write(stream, b"")
            if os.isatty(stream):
                os.tcgetpgrp(stream)
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
