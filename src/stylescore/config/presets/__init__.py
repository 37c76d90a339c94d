"""Presets: TOML files that fix a method with all its constants.

A preset's top-level tables are fields of `MethodConfig`; `[methods.NAME]` holds what differs for one method,
`about` says in a line what it is for, `extends` names a preset whose constants hold where the file has none. A model
folder may carry its own `preset.toml`, and a bundled style constants of its own, `NAME.toml` beside its adapter.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from stylescore.catalog.registry import bundled_style, resolve_model
from stylescore.config.method import Method, MethodConfig
from stylescore.config.toml import converted, overlay
from stylescore.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Path:
    """Return the file of a preset's name or path.

    Raises:
        ConfigError: there is no such preset.
    """
    bundled, file = FOLDER / f"{name}.toml", Path(name).expanduser()
    if name in names():
        return bundled
    if file.is_file():
        return file
    raise ConfigError(f"no preset named {name!r}", hint=did_you_mean(name, names()))


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot read {str(path)!r} as TOML: {error}", hint="compare it with a bundled preset such as balanced.toml"
        ) from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested tables as one; where both have an entry that is no table, `above` has its way."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return found


def extended(table: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """Return a preset's table with what it takes from the preset it extends.

    Raises:
        ConfigError: there is no such preset, or it extends this one in its turn.
    """
    name = table.get("extends")
    if name is None:
        return table
    if not isinstance(name, str) or name in seen:
        raise ConfigError(
            f"extends must name another preset, not {name!r}", hint=f"the package has {', '.join(names())}"
        )
    below = extended(read(find(name)), (*seen, name))
    return merged(below, {key: value for key, value in table.items() if key != "extends"})


def resolve(table: Mapping[str, Any], method: Method | None = None) -> MethodConfig:
    """Turn a preset's table into a method, with what differs for `method` (else the preset's own) applied."""
    table = extended(table)
    shared = {key: value for key, value in table.items() if key not in ("about", "methods")}
    chosen = converted(method or shared.get("method", "sms"), Method, "method")
    special = special_tables(table.get("methods", {}))
    base = overlay(MethodConfig(), shared)
    return overlay(base, {"method": chosen, **special.get(chosen, {})})


def special_tables(table: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the tables of what differs for one method, by its name.

    Raises:
        ConfigError: they are no tables, or there is no such method.
    """
    if not isinstance(table, Mapping) or not all(isinstance(entry, Mapping) for entry in table.values()):
        raise ConfigError(f"methods must hold one table a method, not {table!r}", hint="write [methods.vsd]")
    for name in table:
        converted(name, Method, "methods")
    return table


def load(name: str, method: Method | None = None) -> MethodConfig:
    """Load a preset by name or path, for the method given."""
    return resolve(read(find(name)), method)


def preset_for(model: str, preset: str | None, method: Method | None, styles: Sequence[str] = ()) -> MethodConfig:
    """Return the preset asked for; without one, the model's own if its folder has one, else `balanced`.

    Over the model's own go the constants of a bundled style, if it has some and is the only one.
    """
    if preset is not None:
        return load(preset, method)
    own = own_preset(model)
    if own is None:
        return load("balanced", method)
    special = style_constants(styles)
    return overlay(resolve(read(own), method), {} if special is None else read(special))


def own_preset(model: str) -> Path | None:
    """Return the preset in a model's folder."""
    path = Path(resolve_model(model).location) / "preset.toml"
    return path if path.is_file() else None


def style_constants(styles: Sequence[str]) -> Path | None:
    """Return the file of a bundled style's own constants; mixed styles have none."""
    found = bundled_style(styles[0]) if len(styles) == 1 else None
    path = None if found is None else found.with_suffix(".toml")
    return path if path is not None and path.is_file() else None


def origin(model: str, preset: str | None, styles: Sequence[str]) -> str:
    """Return where the constants of `preset_for` come from, in words for a run's record."""
    if preset is not None:
        return preset
    own, special = own_preset(model), style_constants(styles)
    if own is None:
        return "balanced"
    return f"{model}'s own" + ("" if special is None else f" with those of {special.stem}")


METHODS: tuple[str, ...] = get_args(Method)
