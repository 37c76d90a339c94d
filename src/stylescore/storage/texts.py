"""Reads paths, text files and JSON that others wrote, within limits of size and depth."""

from __future__ import annotations

import json
import math
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LARGEST_TEXT = 32 * 2**20
"""Largest size of a text file in bytes, if its reader states no smaller one. Tokenizers reach 20 MB."""
DEEPEST = 32
"""Deepest nesting of lists and tables. The settings of models and runs need less than ten."""

_MOST_DIGITS = 100


def user_path(name: str) -> Path:
    """Return a path that a user gave, with `~` replaced where there is such a home folder."""
    path = Path(name)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; `False` also for a name that the system cannot have."""
    return _is(path.is_file)


def is_folder(path: Path) -> bool:
    """Tell whether there is such a folder; `False` also for a name that the system cannot have."""
    return _is(path.is_dir)


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (OSError, ValueError):
        return False


def require_regular(path: Path) -> None:
    """Raise `ValueError` for a device or pipe, which may have no end; `OSError` if there is nothing."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is a device or pipe, not a file")


def read_text(path: Path, *, limit: int = LARGEST_TEXT) -> str:
    """Read a UTF-8 file, with or without a byte order mark, or one of UTF-16 that has it, as Windows saves "Unicode".

    Raises:
        OSError: it cannot be read.
        ValueError: it is neither, a device, or has more than `limit` bytes.
    """
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    try:
        return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def parse_json(text: str) -> Any:
    """Parse JSON in which every number is finite.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds a number that cannot be used or a lone surrogate.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int)
    except json.JSONDecodeError as reason:
        raise ValueError(f"it is not JSON: {reason}") from None
    except RecursionError:
        raise ValueError("too many nested brackets") from None
    require_shallow(value)
    return value


def require_shallow(value: Any, deepest: int = DEEPEST) -> None:
    """Raise `ValueError` if lists and tables are nested more than `deepest` times."""
    level = [value]
    for _ in range(deepest + 1):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError("too many nested brackets")


def _inside(value: Any) -> list[Any]:
    """Return what a list or table holds that may hold something in turn."""
    found = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [inner for inner in found if isinstance(inner, Mapping | list | tuple)]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number that can be used")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number has too many digits")
    return int(text)


def describe_error(error: Exception) -> str:
    """Return why a file cannot be read, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
