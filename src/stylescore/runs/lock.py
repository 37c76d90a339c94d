"""The lock of a run folder: one process at a time, and none after its process has ended, however it ended."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stylescore.errors import OutputError

NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class InUseError(OutputError):
    """A run folder that another process holds."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock in the block; the system releases it if the process is killed.

    A file system without locks is used without one.

    Raises:
        InUseError: another process holds it.
        OutputError: the lock cannot be written.
    """
    try:
        descriptor = _acquire(folder / NAME)
    except BlockingIOError as error:
        raise InUseError(
            f"the run in {str(folder)!r} is in use by another process", hint="wait until it ends, or stop it"
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}", hint="choose a folder you may write to"
        ) from error
    try:
        yield
    finally:
        _release(folder / NAME, descriptor)


def _acquire(path: Path) -> int:
    """Return the descriptor of a locked file, which is still the one under this name.

    Raises:
        BlockingIOError: another process has locked it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder removed it between our two calls


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    """Remove the file while it is locked, so that nobody finds it unlocked and in use; Windows needs it closed."""
    if sys.platform == "win32":
        os.close(descriptor)
    with suppress(OSError):
        path.unlink()
    if sys.platform != "win32":
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
