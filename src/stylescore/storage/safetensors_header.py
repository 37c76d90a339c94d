"""Reads and checks the header of a safetensors file, with the standard library alone.

A safetensors file consists of eight bytes (the header's length, little-endian), a JSON header with type, shape and byte
range of every tensor, and the tensors' bytes. The whole header is checked here, before another library maps the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stylescore.errors import InputError

_LARGEST_HEADER = 100_000_000
_NUMBER_TYPE = re.compile(r"(?:F|BF|I|U|C)(\d+)(?:_E\w+)?")
_OTHER_FORMATS = {
    b"PK\x03\x04": "is a pickle archive, which may run code when loaded",
    b"\x80": "is a pickle, which may run code when loaded",
    b"<": "is a web page: the download was refused or needs a login",
    b"version https://git-lfs": "is a Git LFS pointer: the file itself was not downloaded",
    b"GGUF": "is a GGUF file",
}
_GET_SAFETENSORS = (
    "get the same file as .safetensors, or convert it in an environment where running its code does no harm"
)


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """The header's entry of one tensor; `start` and `end` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """The checked header of one file: its tensors by name, and its metadata."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path, *, error: type[InputError]) -> SafetensorsHeader:
    """Read and check a header without loading a tensor.

    Args:
        path: the file, with any extension.
        error: the type to raise: only the caller knows whether the file is a style or a model.

    Raises:
        InputError: of type `error`, if there is no such file or it is not a valid safetensors file.
    """
    if not path.exists():
        raise error(f"there is no file {str(path)!r}", hint="check the path")
    if path.is_dir():
        raise error(f"{str(path)!r} is a folder, a safetensors file is needed", hint=_list_files(path))
    try:
        with path.open("rb") as file:
            return _parse(file, path.stat().st_size)
    except OSError as reason:
        raise error(f"{str(path)!r} cannot be read: {reason.strerror}") from reason
    except _FormatError as reason:
        raise error(f"{str(path)!r} {reason}", hint=reason.hint) from None


class _FormatError(ValueError):
    """A rule of the format that the file breaks; the message follows the file's name."""

    def __init__(self, message: str, *, hint: str = "download the file again") -> None:
        super().__init__(message)
        self.hint = hint


def _list_files(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.glob("*.safetensors"))[:5]
    return f"name one of the files in it: {', '.join(names)}" if names else "name a .safetensors file"


def _parse(file: BinaryIO, size: int) -> SafetensorsHeader:
    head = file.read(24)
    _refuse_other_formats(head)
    length = int.from_bytes(head[:8], "little")
    if size < 8 or length > _LARGEST_HEADER:
        raise _FormatError("is not a safetensors file")
    if 8 + length > size:
        raise _FormatError(f"is truncated: its header takes {length} bytes, the file has {size}")
    file.seek(8)
    fields = _parse_fields(file.read(length))
    metadata = _parse_metadata(fields.pop("__metadata__", {}))
    tensors = {name: _parse_entry(name, value) for name, value in fields.items()}
    _check_ranges(tensors, size - 8 - length)
    return SafetensorsHeader(tensors=tensors, metadata=metadata)


def _refuse_other_formats(head: bytes) -> None:
    if not head:
        raise _FormatError("is empty")
    if head[8:9] == b"{" and not head.startswith(b"PK\x03\x04"):
        return  # the length 640 of a header has the first byte of a pickle
    for magic, reason in _OTHER_FORMATS.items():
        if head.startswith(magic):
            raise _FormatError(reason, hint=_GET_SAFETENSORS)


def _parse_fields(text: bytes) -> dict[str, object]:
    try:
        fields = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError):
        raise _FormatError("is not a safetensors file: its header is not JSON") from None
    if not isinstance(fields, dict):
        raise _FormatError("is not a safetensors file: its header is not a JSON object")
    return fields


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _parse_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _FormatError("has a wrong header: its metadata is not a JSON object")
    return {str(key): str(text) for key, text in value.items()}


def _parse_entry(name: str, value: object) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            _check_size(name, dtype, shape, end - start)
            return TensorEntry(dtype=dtype, shape=tuple(shape), start=start, end=end)
    raise _FormatError(f"has a wrong header: it does not describe {name!r}")


def _check_size(name: str, dtype: str, shape: list[object], size: int) -> None:
    sides = [side for side in shape if isinstance(side, int) and side >= 0]
    if len(sides) != len(shape) or math.prod(sides) * _bits(name, dtype) != 8 * size:
        reason = f"{name!r} of shape {shape} in {dtype} does not take {size} bytes"
        raise _FormatError(f"has a wrong header: {reason}")


def _bits(name: str, dtype: str) -> int:
    match = _NUMBER_TYPE.fullmatch(dtype)
    if match is None and dtype != "BOOL":
        raise _FormatError(f"stores {name!r} as {dtype!r}, an unknown number type")
    return int(match[1]) if match else 8


def _check_ranges(tensors: Mapping[str, TensorEntry], available: int) -> None:
    """Raise unless the byte ranges follow one another without gap or overlap and fill the file."""
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise _FormatError(f"has a wrong header: {name!r} starts at byte {entry.start}, not {position}")
        position = entry.end
    if position > available:
        raise _FormatError(f"is truncated: {available} of {position} bytes are present")
    if position < available:
        raise _FormatError(f"has {available - position} bytes that its header does not account for")
