"""One attempt in a process of its own, within limits of time and memory, and what it left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 60.0
BYTES = 12 * 2**30
"""Address space of an attempt; an unbroken one needs about 3 GB."""
CRASH = 99
"""Exit code of an attempt that an exception left."""


@dataclass(frozen=True)
class Outcome:
    """What an attempt came to.

    Attributes:
        code: exit code; negative for the signal that killed it.
        out: standard output.
        err: standard error.
        left: files that were not there before, or were changed.
    """

    code: int
    out: str
    err: str
    left: tuple[str, ...] = ()


@dataclass
class Tally:
    """One kind of hard use.

    Attributes:
        kind: of use.
        tried: attempts.
        failed: what was tried, and why it did not hold.
    """

    kind: str
    tried: int = 0
    failed: list[str] = field(default_factory=list)

    def count(self) -> None:
        """Count an attempt, and print every hundredth on standard error."""
        self.tried += 1
        if self.tried % 100 == 0:
            print(f"{self.kind}: {self.tried}, of which failed {len(self.failed)}", file=sys.stderr, flush=True)

    def fail(self, what: str) -> None:
        """Note a failure, and print it on standard error."""
        self.failed.append(what)
        print(f"{self.kind}: {what}", file=sys.stderr, flush=True)

    @property
    def held(self) -> int:
        """Attempts that ended as they should."""
        return self.tried - len(self.failed)

    def to_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"kind": self.kind, "tried": self.tried, "held": self.held, "failed": self.failed}


def attempt(place: Path, action: Callable[[], int]) -> Outcome:
    """Call an action in a forked process that works in `place`; what it leaves there is removed."""
    before = _snapshot(place)
    streams = place.parent / "out.txt", place.parent / "err.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _run(place, streams, action)
    code = _wait(child)
    out, err = (stream.read_text("utf-8", errors="replace") for stream in streams)
    after = _snapshot(place)
    left = tuple(sorted(name for name in after if after[name] != before.get(name)))
    _remove(place, [name for name in left if name not in before])
    gone = sorted(set(before) - set(after))
    return Outcome(code, out, err, (*left, *(f"{name} (removed)" for name in gone)))


def _run(place: Path, streams: tuple[Path, Path], action: Callable[[], int]) -> None:
    """Run the action in the forked process, which ends here."""
    code = CRASH
    try:
        for number, stream in enumerate(streams, start=1):
            descriptor = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", errors=errors, closefd=False)
            for number, errors in ((1, "surrogateescape"), (2, "backslashreplace"))
        )
        os.chdir(place)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _wait(child: int) -> int:
    """Return the exit code of a process, which is killed if it takes too long."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def _snapshot(place: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file and folder."""
    found = {}
    for parent, folders, files in os.walk(place):
        for name in [*folders, *files]:
            facts = os.lstat(os.path.join(parent, name))
            stamp = (0, 0) if name in folders else (facts.st_size, facts.st_mtime_ns)
            found[os.path.relpath(os.path.join(parent, name), place)] = stamp
    return found


def _remove(place: Path, names: list[str]) -> None:
    for name in names:
        path = place / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
