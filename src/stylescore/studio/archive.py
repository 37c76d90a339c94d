"""Several pictures as one ZIP archive, written while it is sent: no copy of it is held in memory or on the disk."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

CHUNK = 256 * 2**10
"""Bytes that are read at a time."""


def stream_archive(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield the bytes of an archive; pictures are stored as they are, since PNG is compressed already.

    Args:
        files: name in the archive and path of each; of two with one name the later one gets a number.

    Raises:
        OSError: a file is gone. The archive ends without its directory then, so that no program takes it as whole.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, path in _distinct(files):
            moment = time.localtime(path.stat().st_mtime)[:6]
            with path.open("rb") as source, archive.open(zipfile.ZipInfo(name, moment), "w", force_zip64=True) as entry:
                while chunk := source.read(CHUNK):
                    entry.write(chunk)
                    yield sink.take()
    yield sink.take()


def _distinct(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Yield the files with names of which no two are the same, also where case does not count."""
    seen: set[str] = set()
    for name, path in files:
        distinct, number = name, 1
        while distinct.casefold() in seen:
            number += 1
            distinct = f"{Path(name).stem} ({number}){Path(name).suffix}"
        seen.add(distinct.casefold())
        yield distinct, path


class _Sink:
    """A file that cannot be sought in: it hands out what was written since the last time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, part: bytes, /) -> int:
        """Take bytes; `zipfile` counts them itself."""
        self._parts.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        """Do nothing, as nothing is held back."""

    def close(self) -> None:
        """Do nothing, as nothing is open."""

    def take(self) -> bytes:
        """Return what was written, and forget it."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken
