"""A run from keyword arguments, under the names of the command line's options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any

from stylescore.config.content_knob import with_strength
from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import ONE_PICTURE, Method, MethodConfig
from stylescore.config.presets import METHODS, origin, preset_for
from stylescore.config.ranges import check_run
from stylescore.config.run import EmbeddingChoice, RunConfig, StyleChoice, WeightsChoice, with_options
from stylescore.config.toml import check_choice, overlay
from stylescore.errors import ConfigError, StyleError, did_you_mean, quote

Style = str | os.PathLike[str] | Mapping[Any, float] | Sequence[str | os.PathLike[str]]
"""One style by name, file or hub id; several as a list; several with weights as `{name: weight}`."""

OTHER_NAMES = {
    "caption": "prompt='a cat on a sofa'",
    "image": "the photo as the first argument",
    "steps": "iterations=200",
    "num_inference_steps": "iterations=200",
    "lora_scale": "style_strength=1.0",
    "generator": "seed=0",
    "guidance_scale": "settings={'guidance_scale': 7.5}",
    "torch_dtype": "dtype='bfloat16'",
    "height": "size=512, the short side",
    "width": "size=512, the short side",
    "low_memory": "memory='low'",
    "offload": "memory='offload'",
    "callback_on_step_end": "on_iteration=function",
}
"""Names that other versions and libraries have for an argument, and what to write here."""


def make_run(
    style: Style,
    *,
    model: str | os.PathLike[str] = "mini",
    method: Method | None = None,
    preset: str | os.PathLike[str] | None = None,
    style_strength: float | None = None,
    text_strength: float | None = None,
    iterations: int | None = None,
    strength: float | None = None,
    prompt: str = "",
    embeddings: Mapping[str, str | os.PathLike[str]] | None = None,
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> RunConfig:
    """Return a checked run.

    Args:
        style: a style, or several, see `Style`; an empty list for the methods that take `style_image`.
        model: a bundled model's name, a folder, a file, or a hub id.
        method: sms, vsd, sds, dds or pds; for comparison sdedit, styleid, freestyle, instantstyle, gatys, adain or
            ghiasi; `None` takes the preset's.
        preset: a preset's name or file; `None` takes the model's own.
        style_strength: factor of the style LoRA; `None` takes the preset's.
        text_strength: factor of its text-encoder part alone; `None` takes `style_strength`.
        iterations: length of the run; `None` takes the preset's.
        strength: of the methods that have one; `None` takes the preset's.
        prompt: what the photo shows.
        embeddings: textual inversion files, by the word that stands for each in prompts.
        weights: where networks of the method are that are no diffusion model, as `{name: file}`.
        settings: constants that differ from the preset's, as nested tables, e.g. `{"spectrum": {"weight": 2e-4}}`.
        options: further fields of `RunConfig` and `ExecutionConfig`, e.g. `content=0.7`, `device="cuda"`.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of range.
    """
    check_names(options)
    options = {key: text_of(value, key) if isinstance(value, os.PathLike) else value for key, value in options.items()}
    choices = () if method in ONE_PICTURE and not style else make_styles(style)
    name = text_of(model, "model")
    chosen = None if method is None else check_choice(method, METHODS, "method")
    file = None if preset is None else text_of(preset, "preset")
    styles = [choice.name for choice in choices]
    direct = {"style_strength": style_strength, "text_strength": text_strength, "iterations": iterations}
    table = {**settings_table(settings), **{key: value for key, value in direct.items() if value is not None}}
    constants = with_strength(overlay(preset_for(name, file, chosen, styles), table), strength)
    run = RunConfig(
        styles=choices,
        embeddings=make_embeddings(embeddings or {}),
        weights=make_weights(weights or {}),
        model=name,
        method=constants,
        preset=origin(name, file, styles),
    )
    return check_run(with_options(run, {"caption": prompt, **options}))


def check_names(options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for a keyword that is no option, with the right name in the hint."""
    known = {field.name for config in (RunConfig, ExecutionConfig) for field in fields(config)}
    known = (known | {"prompt", "settings", "iterations", "style_strength", "text_strength", "strength"}) - {
        "caption",
        "styles",
        "execution",
    }
    constants = {field.name for field in fields(MethodConfig)}
    for name in options:
        if name in known:
            continue
        hint = did_you_mean(name, known)
        if name in OTHER_NAMES:
            hint = f"write {OTHER_NAMES[name]}"
        elif name in constants:
            hint = f"write settings={{{name!r}: ...}}"
        raise ConfigError(f"unknown option {name!r}", hint=hint)


def make_styles(style: Style) -> tuple[StyleChoice, ...]:
    """Return one style or several as choices.

    Raises:
        StyleError: it is neither a name nor a list nor a mapping, or names none.
    """
    if isinstance(style, str | os.PathLike):
        return (StyleChoice(name=text_of(style, "style")),)
    if isinstance(style, Mapping):
        pairs = [(name, weight) for name, weight in style.items()]
    elif isinstance(style, Sequence) and not isinstance(style, bytes):
        pairs = [(name, 1.0) for name in style]
    else:
        raise StyleError(
            f"a style must be a name, a file or {{name: weight}}, not {type(style).__name__}",
            hint="for example style='watercolor' or style={'watercolor': 0.6, 'ink-drawing': 0.4}",
        )
    choices = tuple(_choice(name, weight) for name, weight in pairs)
    if not choices:
        raise StyleError("at least one style is needed, not an empty list", hint="stylescore styles lists them")
    return choices


def make_embeddings(embeddings: Any) -> tuple[EmbeddingChoice, ...]:
    """Return textual inversion files, by word, as choices.

    Raises:
        ConfigError: they are no such mapping.
    """
    what, hint = "embeddings must map words to files", "embeddings={'my-word': 'my-word.safetensors'}"
    return tuple(EmbeddingChoice(token=token, file=file) for token, file in _named_files(embeddings, what, hint))


def make_weights(weights: Any) -> tuple[WeightsChoice, ...]:
    """Return files of weights, by the network's name, as choices.

    Raises:
        ConfigError: they are no such mapping.
    """
    what, hint = "weights must map names of networks to files", "weights={'vgg19': 'vgg19.safetensors'}"
    return tuple(WeightsChoice(network=name, file=file) for name, file in _named_files(weights, what, hint))


def _named_files(table: Any, what: str, hint: str) -> list[tuple[str, str]]:
    """Return the pairs of a mapping from names to files, or raise `ConfigError` that says what it must be."""
    if not isinstance(table, Mapping) or not all(isinstance(name, str) for name in table):
        raise ConfigError(f"{what}, not {type(table).__name__}", hint=f"for example {hint}")
    return [(name, text_of(file, name)) for name, file in table.items()]


def _choice(name: Any, weight: Any) -> StyleChoice:
    if not isinstance(name, str | os.PathLike) or isinstance(weight, bool) or not isinstance(weight, Real):
        raise StyleError(
            f"a style must be a name with a number as its weight, not {name!r}: {weight!r}",
            hint="for example {'watercolor': 0.6}",
        )
    return StyleChoice(name=text_of(name, "style"), weight=float(weight))


def settings_table(settings: Any) -> Mapping[str, Any]:
    """Return settings if they are a table, an empty one for `None`.

    Raises:
        ConfigError: they are something else, or have a key that is no text.
    """
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(
            f"settings must be a table of constants, not {quote(settings)}", hint="settings={'guidance_scale': 3.0}"
        )
    return settings


def text_of(value: Any, name: str) -> str:
    """Return a name or path as a string.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return value
    raise ConfigError(f"{name} must be a name or a path, not {type(value).__name__}", hint=f"give {name} as a string")
