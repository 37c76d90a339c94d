"""Option texts to values."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylescore.config.run import StyleChoice
from stylescore.errors import ConfigError


def parse_styles(texts: Sequence[str]) -> tuple[StyleChoice, ...]:
    """Read `NAME` or `NAME=SHARE`; a text that is an existing file is a name as it stands."""
    return tuple(parse_style(text) for text in texts)


def parse_style(text: str) -> StyleChoice:
    """Read one style."""
    name, equals, share = text.rpartition("=")
    if not equals or Path(text).exists():
        return StyleChoice(name=text)
    try:
        return StyleChoice(name=name, weight=float(share))
    except ValueError as error:
        raise ConfigError(f"a style's share must be a number, not {share!r}", hint="write --style NAME=0.7") from error


def parse_settings(texts: Sequence[str], **direct: Any) -> dict[str, Any]:
    """Read `KEY=VALUE` texts, keys dotted and values as in TOML, and the options that are settings themselves."""
    table: dict[str, Any] = {key: value for key, value in direct.items() if value is not None}
    for text in texts:
        merge(table, parse_setting(text))
    return table


def parse_setting(text: str) -> dict[str, Any]:
    """Read one setting; a value that is not TOML is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set needs KEY=VALUE, not {text!r}", hint="for example --set spectrum.weight=2e-4")
    try:
        return tomllib.loads(f"{key.strip()} = {value.strip()}")
    except tomllib.TOMLDecodeError:
        return nested(key.strip().split("."), value.strip())


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `value` at the end of a path of keys."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merge(table: dict[str, Any], more: dict[str, Any]) -> None:
    """Put the entries of `more` into `table`, at any depth."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            merge(table[key], value)
        else:
            table[key] = value
