"""Presets: TOML files that fix a method with all its constants.

A preset's top-level tables are fields of `MethodConfig`. `[methods.NAME]` holds what differs for one method, `about`
describes the preset in one line, `for_models` states whether it is for `large` models or for `mini`, and `extends`
names a preset whose constants are used where the file sets none. A model folder may have its own `preset.toml`, and a
bundled style its own constants, `NAME.toml` beside its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from stylescore.catalog.registry import BUNDLED, BUNDLED_MODELS, bundled_style, resolve_model
from stylescore.config.method import Method, MethodConfig
from stylescore.config.toml import check_choice, convert, load_toml, merge_tables, overlay
from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore.storage.texts import is_file, user_path

_LONGEST_CHAIN = 16
FOLDER = Path(__file__).parent
_SUITED = {"large": "is for large models such as Stable Diffusion", "mini": "is for the bundled model mini"}
_WITHOUT_PRESET = {
    "large": "take balanced or swift",
    "mini": "leave --preset out, or the style will hardly be visible",
}
"""What to use instead, by the kind of the model."""


def names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(name: str) -> Path:
    """Return the file of a preset's name or path.

    Raises:
        ConfigError: there is no such preset.
    """
    bundled, file = FOLDER / f"{name}.toml", user_path(name)
    if name in names():
        return bundled
    if is_file(file):
        return file
    raise ConfigError(f"no preset named {quote(name)}", hint=did_you_mean(name, names()))


def _resolve_extends(table: Mapping[str, Any], seen: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """Merge a preset's table into that of the preset it extends.

    Raises:
        ConfigError: there is no such preset, or it extends this one in turn.
    """
    name = table.get("extends")
    if name is None:
        return table
    if not isinstance(name, str) or name in seen or len(seen) > _LONGEST_CHAIN:
        raise ConfigError(
            f"extends must name another preset, not {quote(name)}", hint=f"the package has {', '.join(names())}"
        )
    base = _resolve_extends(load_toml(find(name)), (*seen, name))
    return merge_tables(base, {key: value for key, value in table.items() if key != "extends"})


def resolve(table: Mapping[str, Any], method: Method | None = None) -> MethodConfig:
    """Convert a preset's table to the configuration of `method`, or of the preset's own method if that is `None`."""
    table = _resolve_extends(table)
    shared = {key: value for key, value in table.items() if key not in ("about", "for_models", "methods")}
    chosen = convert(method or shared.get("method", "sms"), Method, "method")
    differences = _method_tables(table.get("methods", {}))
    base = overlay(MethodConfig(), shared)
    return overlay(base, {"method": chosen, **differences.get(chosen, {})})


def _method_tables(table: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return what differs for each method, by the method's name.

    Raises:
        ConfigError: an entry is not a table, names no method, or sets the method itself.
    """
    if not isinstance(table, Mapping) or not all(isinstance(entry, Mapping) for entry in table.values()):
        raise ConfigError(
            f"methods must hold one table for each method, not {quote(table)}", hint="write [methods.vsd]"
        )
    for name, entry in table.items():
        convert(name, Method, "methods")
        _refuse_method(entry, f"[methods.{name}]")
    return table


def _refuse_method(table: Mapping[str, Any], where: str) -> None:
    """Raise `ConfigError` if constants that hold for a chosen method would change that method."""
    if "method" in table:
        raise ConfigError(
            f"{where} cannot set method, got {quote(table['method'])}",
            hint="delete that line; --method or the preset's first lines choose the method",
        )


def load(name: str, method: Method | None = None) -> MethodConfig:
    """Load a preset by name or path, for the given method or the preset's own."""
    return resolve(load_toml(find(name)), method)


def suited_models(name: str) -> str | None:
    """Return the models that a preset is for, `large` or `mini`; `None` if it does not state them.

    Raises:
        ConfigError: it states something else.
    """
    path = find(name)
    if any(path.resolve().is_relative_to(BUNDLED / model) for model in BUNDLED_MODELS):
        return "mini"
    stated = _resolve_extends(load_toml(path)).get("for_models")
    return None if stated is None else str(check_choice(stated, tuple(_WITHOUT_PRESET), "for_models"))


def unsuited(model: str, preset: str | None) -> str | None:
    """Return a warning if the named preset is not for this model, else `None`."""
    kind = "mini" if model in BUNDLED_MODELS else "large"
    stated = kind if preset is None else suited_models(preset)
    if stated in (None, kind):
        return None
    return f"the preset {preset!r} {_SUITED[stated]}, not for {model}: {_WITHOUT_PRESET[kind]}"


def preset_for(model: str, preset: str | None, method: Method | None, styles: Sequence[str] = ()) -> MethodConfig:
    """Load the named preset; without a name, the model's own if its folder has one, else `balanced`.

    A single bundled style's own constants, if it has some, replace those of the model's own preset.
    """
    if preset is not None:
        return load(preset, method)
    own = _model_preset(model)
    if own is None:
        return load("balanced", method)
    return overlay(resolve(load_toml(own), method), _load_style_constants(styles))


def _model_preset(model: str) -> Path | None:
    path = Path(resolve_model(model).location) / "preset.toml"
    return path if path.is_file() else None


def _style_constants(styles: Sequence[str]) -> Path | None:
    """Return the file of a bundled style's own constants; mixed styles have none."""
    found = bundled_style(styles[0]) if len(styles) == 1 else None
    path = None if found is None else found.with_suffix(".toml")
    return path if path is not None and path.is_file() else None


def _load_style_constants(styles: Sequence[str]) -> Mapping[str, Any]:
    path = _style_constants(styles)
    if path is None:
        return {}
    table = load_toml(path)
    _refuse_method(table, str(path))
    return table


def origin(model: str, preset: str | None, styles: Sequence[str]) -> str:
    """Describe where the constants of `preset_for` come from, for a run's record."""
    if preset is not None:
        return preset
    own, constants = _model_preset(model), _style_constants(styles)
    if own is None:
        return "balanced"
    return f"{model}'s own" + ("" if constants is None else f" with those of {constants.stem}")


METHODS: tuple[str, ...] = get_args(Method)
