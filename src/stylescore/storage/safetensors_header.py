"""Reads, checks and sorts the header of a safetensors file, with the standard library alone.

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

from stylescore.errors import InputError, ModelError, StyleError, quote
from stylescore.storage.texts import describe_error, require_regular
from stylescore_apply.storage.file_kinds import HEAD_LENGTH, is_safetensors, kind_of_bytes

_LARGEST_HEADER = 32 * 2**20
_MOST_DIMENSIONS = 8
_LARGEST_SIDE = 2**40
_LONGEST_NAME = 1000
_NUMBER_TYPE = re.compile(r"(?:F|BF|I|U|C)(\d{1,3})(?:_E\w{1,8})?")
_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_WANTED: Mapping[type[InputError], str] = {StyleError: "a LoRA", ModelError: "a safetensors file with a model"}


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


def read_header(path: Path, *, error: type[InputError], wanted: str | None = None) -> SafetensorsHeader:
    """Read and check a header without loading a tensor.

    Args:
        path: the file, with any extension.
        error: the type to raise: only the caller knows whether the file is a style or a model.
        wanted: what the file should be, for messages; `None` says what follows from `error`.

    Raises:
        InputError: of type `error`, if there is no such file or it is not a valid safetensors file.
    """
    try:
        if path.is_dir():
            raise error(f"{str(path)!r} is a folder, a safetensors file is needed", hint=_list_files(path))
        require_regular(path)
        with path.open("rb") as file:
            return _parse(file, path.stat().st_size, wanted or _WANTED.get(error, "a safetensors file"))
    except FileNotFoundError:
        raise error(f"there is no file {str(path)!r}", hint="check the path") from None
    except _FormatError as reason:
        raise error(f"{str(path)!r} {reason}", hint=reason.hint) from None
    except (OSError, ValueError) as reason:
        hint = "check the path and its permissions"
        raise error(f"{str(path)!r} cannot be read: {describe_error(reason)}", hint=hint) from reason


def sort_metadata(data: bytes) -> bytes:
    """Return the bytes of a safetensors file with sorted metadata; the library writes them in a random order.

    Tensors are placed from the end of the header, so none of their ranges changes.
    """
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    padded = text + b" " * (-len(text) % 8)
    return len(padded).to_bytes(8, "little") + padded + data[8 + length :]


class _FormatError(ValueError):
    """A rule of the format that the file breaks; the message follows the file's name."""

    def __init__(self, message: str, *, hint: str = "download the file again") -> None:
        super().__init__(message)
        self.hint = hint


def _list_files(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.glob("*.safetensors"))[:5]
    return f"name one of the files in it: {', '.join(names)}" if names else "name a .safetensors file"


def _parse(file: BinaryIO, size: int, wanted: str) -> SafetensorsHeader:
    head = file.read(HEAD_LENGTH)
    _refuse_other_formats(head, wanted)
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


def _refuse_other_formats(head: bytes, wanted: str) -> None:
    kind = None if is_safetensors(head) else kind_of_bytes(head)
    if kind is not None:
        raise _FormatError(kind.refuse(wanted), hint=kind.hint)


def _parse_fields(content: bytes) -> dict[str, object]:
    try:
        text = content.decode("utf-8")
        fields = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except _FormatError:
        raise
    except (ValueError, RecursionError):
        raise _FormatError("is not a safetensors file: its header is not JSON") from None
    if not isinstance(fields, dict):
        raise _FormatError("is not a safetensors file: its header is not a JSON object")
    if _LONE_SURROGATE.search(text):
        _refuse_stray(fields)
    return fields


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in pairs:
        if name in fields:
            raise _FormatError(f"has a wrong header: it gives {quote(name)} twice")
        fields[name] = value
    return fields


def _refuse_stray(fields: Mapping[str, object]) -> None:
    """Raise for half of an escaped pair of letters, which no name or text can hold."""
    try:
        json.dumps(fields, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise _FormatError("has a wrong header: a name or text in it is not Unicode") from None


def _parse_metadata(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _FormatError("has a wrong header: its metadata is not a JSON object")
    return {str(key): str(text) for key, text in value.items()}


def _parse_entry(name: str, value: object) -> TensorEntry:
    if len(name) > _LONGEST_NAME:
        raise _FormatError(f"has a wrong header: a name in it has {len(name):,} letters")
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            sides = _parse_shape(name, shape)
            if math.prod(sides) * _bits(name, dtype) != 8 * (end - start):
                reason = f"{name!r} of shape {quote(shape)} in {dtype} does not take {quote(end - start)} bytes"
                raise _FormatError(f"has a wrong header: {reason}")
            return TensorEntry(dtype=dtype, shape=sides, start=start, end=end)
    raise _FormatError(f"has a wrong header: it does not describe {name!r}")


def _parse_shape(name: str, shape: list[object]) -> tuple[int, ...]:
    if len(shape) > _MOST_DIMENSIONS:
        raise _FormatError(
            f"has a wrong header: {name!r} has {len(shape)} dimensions, at most {_MOST_DIMENSIONS} are allowed"
        )
    sides = tuple(side for side in shape if type(side) is int and 0 <= side <= _LARGEST_SIDE)
    if len(sides) != len(shape):
        raise _FormatError(f"has a wrong header: {name!r} cannot have the shape {quote(shape)}")
    return sides


def _bits(name: str, dtype: str) -> int:
    match = _NUMBER_TYPE.fullmatch(dtype)
    if match is None and dtype != "BOOL":
        raise _FormatError(f"stores {name!r} as {quote(dtype)}, an unknown number type")
    return int(match[1]) if match else 8


def _check_ranges(tensors: Mapping[str, TensorEntry], available: int) -> None:
    """Raise unless the byte ranges follow one another without gap or overlap and fill the file."""
    position = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != position:
            raise _FormatError(f"has a wrong header: {name!r} starts at byte {quote(entry.start)}, not {position}")
        position = entry.end
    if position > available:
        raise _FormatError(f"is truncated: {available} of {quote(position)} bytes are present")
    if position < available:
        raise _FormatError(f"has {available - position} bytes that its header does not account for")
