"""Reads TOML, and converts its tables to frozen dataclasses and back."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Number, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore.storage.texts import describe_error, read_text, require_shallow
from stylescore_apply.storage.file_kinds import file_kind

T = TypeVar("T")

LONGEST_TOML = 256 * 2**10
"""Longest TOML document in bytes; a run's record has a few thousand."""
_DEEP_KEY = re.compile(r"(?:[\w\"'-]+[ \t]*\.[ \t]*){100}")
_TEXTS = ("a text file", "a TOML file", "empty (0 bytes)")
_KINDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises:
        ValueError: it is not TOML, too long, nested too deeply, or holds a number of thousands of digits.
    """
    if len(text) > LONGEST_TOML:
        raise ValueError(f"it has more than {LONGEST_TOML:,} letters")
    _refuse_deep_keys(text)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's limit for the conversion of a text to an integer
        raise ValueError("a number has too many digits") from None
    except RecursionError:
        raise ValueError("too many nested brackets") from None
    require_shallow(table)
    return table


def _refuse_deep_keys(text: str) -> None:
    """Raise `ValueError` for names with hundreds of parts, for which Python's parser needs minutes."""
    if _DEEP_KEY.search(text):
        raise ValueError("a name has too many dots")


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read or is not TOML.
    """
    try:
        return parse_toml(read_text(path, limit=LONGEST_TOML))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {str(path)!r} as TOML: {_reason(path, error)}",
            hint="compare it with a bundled preset such as balanced.toml",
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read; what it is instead, if it is no text at all."""
    with suppress(OSError):
        kind = file_kind(path)
        if kind is not None and kind.what not in _TEXTS:
            return f"it {kind.refuse('a TOML file')}"
    return describe_error(error)


def merge_tables(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested tables; where an entry of either is not a table, that of `changes` replaces that of `base`."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge_tables(old, value) if both else value  # type: ignore[arg-type]
    return merged


def overlay(base: T, table: Mapping[str, Any], *, where: str = "") -> T:
    """Return `base`, a frozen dataclass, with the fields that `table` names replaced, at any depth.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{where}{key}"
        if key not in hints:
            raise ConfigError(f"unknown setting {quote(name)}", hint=did_you_mean(key, hints))
        current = getattr(base, key)
        if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            changes[key] = overlay(current, value, where=f"{name}.")
        else:
            changes[key] = convert(value, hints[key], name)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def convert(value: Any, hint: Any, name: str) -> Any:
    """Convert a TOML value to the annotated type of the setting `name`.

    Raises:
        ConfigError: the value has another type, or is not among the allowed ones.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return check_choice(value, args, name)
    if origin in (Union, UnionType):
        return None if value is None else convert(value, next(a for a in args if a is not NoneType), name)
    if origin is tuple:
        return _convert_list(value, args[0], name)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_table(hint, value, where=f"{name}.")
    return _convert_scalar(value, hint, name)


def check_choice(value: Any, known: Sequence[Any], name: str) -> Any:
    """Return `value` if it is one of the known ones, else raise `ConfigError`."""
    if value not in known:
        raise ConfigError(
            f"{name} must be one of {', '.join(map(str, known))}, not {quote(value)}",
            hint=did_you_mean(value if isinstance(value, str) else quote(value), map(str, known)),
        )
    return value


def _convert_list(value: Any, item: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} must be a list, not {quote(value)}", hint='write ["a", "b"]')
    return tuple(convert(entry, item, f"{name}[{i}]") for i, entry in enumerate(value))


def _convert_scalar(value: Any, hint: Any, name: str) -> Any:
    """Convert a whole number where a float is expected, and numpy's numbers; other differences in type are errors."""
    if isinstance(value, Number) and not isinstance(value, bool | int | float):
        value = int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < sys.float_info.max else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        kind = _KINDS.get(hint, "a table of settings")
        quoted = f' in quotes: "{quote(value)}"' if hint is str and not isinstance(value, list | Mapping) else ""
        raise ConfigError(f"{name} must be {kind}, not {quote(value)}", hint=f"write {kind}{quoted}")
    return value


def from_table(kind: Any, table: Mapping[str, Any], *, where: str = "") -> Any:
    """Build a dataclass from a table; fields left out keep their defaults.

    Raises:
        ConfigError: an unknown key, a wrong type, or a missing field.
    """
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise ConfigError(f"unknown setting {quote(f'{where}{key}')}", hint=did_you_mean(key, hints))
    values = {key: convert(value, hints[key], f"{where}{key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [key for key in _required_fields(kind) if key not in table]
        raise ConfigError(
            f"the table {where.rstrip('.') or 'of settings'} lacks {', '.join(missing)}", hint="fill in what is missing"
        ) from error


def _required_fields(kind: Any) -> list[str]:
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def to_table(config: Any) -> dict[str, Any]:
    """Convert a dataclass to nested plain tables; `None` fields are left out, as TOML has no null."""
    return {
        field.name: _to_plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if getattr(config, field.name) is not None
    }


def _to_plain(value: Any) -> Any:
    """Convert dataclasses to tables and tuples to lists, at any depth."""
    if dataclasses.is_dataclass(value):
        return to_table(value)
    return [_to_plain(entry) for entry in value] if isinstance(value, tuple) else value
