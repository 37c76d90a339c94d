"""Writes files so that they are either complete or absent, removes what killed processes left, computes SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stylescore_apply.errors import InputError, OutputError

_HINTS = {
    errno.ENOSPC: "free some space on this disk or write to another one",
    errno.EDQUOT: "free some of your disk quota or write to another disk",
    errno.EACCES: "choose a folder you may write to, or change its permissions",
    errno.EPERM: "choose a folder you may write to, or change its permissions",
    errno.EROFS: "this disk is read-only; choose another folder",
    errno.ENAMETOOLONG: "choose a shorter file name",
}

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a program to stop; Windows has no SIGHUP."""

_PARTIAL = ".partial-"
_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PROCESS = secrets.token_hex(4)
"""Differs from that of an earlier process of the same number, which containers often have."""


def partial_path(folder: Path, suffix: str = "") -> Path:
    """Return a new hidden path in a folder, whose name tells which process writes there."""
    # Without the target's name, which may already have the largest length that the system allows.
    return folder / f"{_PARTIAL}{_HOST}-{os.getpid()}-{_PROCESS}-{secrets.token_hex(4)}{suffix}"


def remove_partials(folder: Path, *, owned: bool) -> None:
    """Remove what killed processes left unfinished in a folder; what cannot be removed is left.

    Args:
        folder: where to look; its subfolders are not searched.
        owned: whether this process holds the folder's lock, so that nobody else writes there. Else only what
            processes wrote that have ended on this machine is removed.
    """
    for path in folder.glob(f"{_PARTIAL}*"):
        if owned or _has_dead_owner(path.name):
            remove_any(path)


def _has_dead_owner(name: str) -> bool:
    """Return whether the process that chose a hidden name ran on this machine and has ended."""
    host, _, rest = name.removeprefix(_PARTIAL).partition("-")
    number, _, rest = rest.partition("-")
    if host != _HOST or not number.isdecimal():
        return False
    if int(number) == os.getpid():
        return rest.partition("-")[0] != _PROCESS
    return not _is_alive(int(number))


def _is_alive(process: int) -> bool:
    """Return whether a process of this number runs; Windows cannot be asked without harm, there it always does."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def remove_any(path: Path) -> None:
    """Remove a file or a folder with all it holds; what cannot be removed is left."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and termination while the block writes; the last of them is delivered after it.

    Without effect outside of the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    previous = {number: signal.signal(number, lambda number, _: held.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[-1])


@contextmanager
def atomic(path: str | os.PathLike[str], *, suffix: str | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` when the block succeeds.

    After any failure, Ctrl-C included, the temporary file is removed and an older `path` is unchanged. What a killed
    process leaves is for `remove_partials`.

    Args:
        path: the file to write. Its folder must exist.
        suffix: of the temporary path, where files of the target's are searched for; by default the target's.

    Yields:
        A path in the same folder; the file does not exist yet.

    Raises:
        OutputError: `path` is a folder or a device, its folder is missing or is a file, or the system
            refuses to write (permission, full disk).
    """
    target = Path(path)
    temporary = partial_path(target.parent, target.suffix if suffix is None else suffix)
    try:
        check_target(target)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str], besides: Collection[str] = ()) -> str:
    """Return the SHA-256 of a file, or of a folder's names and contents.

    A folder's files are hashed in the order of their relative names, written with `/`: the digest is the same on every
    system, and changes when a file is renamed.

    Args:
        path: a file or a folder.
        besides: names of files and folders right in a folder that are left out.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: `path` is missing or cannot be read.
    """
    target = Path(path)
    try:
        return _folder_digest(target, besides) if target.is_dir() else _file_digest(target)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {_reason(error)}", hint="check the path and its permissions"
        ) from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder_digest(folder: Path, besides: Collection[str]) -> str:
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    names = sorted(file.as_posix() for file in files if file.parts[0] not in besides)
    lines = [f"{_file_digest(folder / name)}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def check_target(target: Path) -> None:
    """Raise `OutputError` for a target at which the final rename would fail or do harm."""
    if "\0" in str(target):
        raise OutputError(f"a file name cannot contain NUL, got {str(target)!r}", hint="choose another name")
    if not target.parent.exists():
        raise OutputError(f"the folder of {str(target)!r} does not exist", hint="create the folder first")
    if not target.parent.is_dir():
        raise OutputError(
            f"{str(target.parent)!r} is a file, not a folder, so {str(target)!r} cannot be written",
            hint="choose another folder",
        )
    if target.is_dir():
        raise OutputError(f"{str(target)!r} is a folder, not a file", hint="add a file name to it")
    if target.exists() and not target.is_file():
        raise OutputError(f"{str(target)!r} is a device, not a file", hint="choose the name of a regular file")


def _flush(path: Path) -> None:
    """Write the content to the disk before the rename, so that a power failure cannot leave an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_error(target: Path, error: OSError) -> OutputError:
    hint = _HINTS.get(error.errno or 0, "check the folder, its permissions and the free space")
    return OutputError(f"{str(target)!r} cannot be written: {_reason(error)}", hint=hint)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
