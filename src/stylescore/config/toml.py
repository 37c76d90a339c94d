"""Nested tables (as TOML holds them) to frozen dataclasses and back, with errors that teach."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stylescore.errors import ConfigError, did_you_mean

T = TypeVar("T")

KINDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


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
            raise ConfigError(f"unknown setting {name!r}", hint=did_you_mean(key, hints))
        current = getattr(base, key)
        if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            changes[key] = overlay(current, value, where=f"{name}.")
        else:
            changes[key] = converted(value, hints[key], name)
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def converted(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the annotated type, or raise `ConfigError`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return choice(value, args, name)
    if origin in (Union, UnionType):
        return None if value is None else converted(value, next(a for a in args if a is not NoneType), name)
    if origin is tuple:
        return converted_tuple(value, args[0], name)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_table(hint, value, where=f"{name}.")
    return converted_scalar(value, hint, name)


def choice(value: Any, known: Sequence[Any], name: str) -> Any:
    """Return `value` if it is one of the known ones, else raise `ConfigError`."""
    if value not in known:
        raise ConfigError(
            f"{name} must be one of {', '.join(map(str, known))}, not {value!r}",
            hint=did_you_mean(str(value), map(str, known)),
        )
    return value


def converted_tuple(value: Any, item: Any, name: str) -> tuple[Any, ...]:
    """Return a list's items as the annotated type."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} must be a list, not {value!r}", hint='write ["a", "b"]')
    return tuple(converted(entry, item, f"{name}[{i}]") for i, entry in enumerate(value))


def converted_scalar(value: Any, hint: Any, name: str) -> Any:
    """Accept an int where a float is asked, and nothing else that differs."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < sys.float_info.max else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = KINDS.get(hint, "a table of settings")
        raise ConfigError(f"{name} must be {words}, not {value!r}", hint=f"write {words}")
    return value


def from_table(kind: Any, table: Mapping[str, Any], *, where: str = "") -> Any:
    """Build a dataclass from a table; fields left out keep their defaults.

    Raises:
        ConfigError: an unknown key, a wrong type, or a missing field.
    """
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise ConfigError(f"unknown setting {where + key!r}", hint=did_you_mean(key, hints))
    values = {key: converted(value, hints[key], f"{where}{key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [key for key in required(kind) if key not in table]
        raise ConfigError(
            f"the table {where.rstrip('.') or 'of settings'} lacks {', '.join(missing)}", hint="fill in what is missing"
        ) from error


def required(kind: Any) -> list[str]:
    """Return the names of a dataclass's fields that have no default."""
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def to_table(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain tables; `None` fields are left out, as TOML has no null."""
    return {
        field.name: plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if getattr(config, field.name) is not None
    }


def plain(value: Any) -> Any:
    """Return dataclasses as tables and tuples as lists, at any depth."""
    if dataclasses.is_dataclass(value):
        return to_table(value)
    return [plain(entry) for entry in value] if isinstance(value, tuple) else value
