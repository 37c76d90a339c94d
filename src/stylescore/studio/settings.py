"""What a user chooses for a picture; how it becomes a run, and how a finished picture's record becomes it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from stylescore.assembly.options import make_run
from stylescore.config.method import MethodConfig
from stylescore.config.run import RunConfig
from stylescore.config.toml import convert, from_table, merge_tables, parse_toml, to_table
from stylescore.errors import ConfigError, StyleError, quote
from stylescore.studio.style_list import StyleList

RECORD_KEY = "stylescore"
"""Under which a finished picture holds its record, see `stylescore.runs.job.public_record`."""
MOST_CONSTANTS = 100
_NOT_OFFERED = ("style_model", "embeddings", "negative_prompt", "vae", "text_encoders", "keep_colours")
"""Fields of a run that change its picture and that the page has no place for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user chooses for a picture.

    Attributes:
        style: name of a style of the studio.
        content: 0 strongest style, 0.5 the preset as it is, 1 strongest content.
        caption: what the photo shows.
        style_prompt: prompt of the style; `None` takes the style's trigger words.
        size: short side in pixels that the photo is processed at; `None` leaves it to the preset.
        seed: of every random draw.
        constants: constants of the method that differ from the preset's, by dotted names.
    """

    style: str
    content: float = 0.5
    caption: str = ""
    style_prompt: str | None = None
    size: int | None = None
    seed: int = 0
    constants: Mapping[str, Any] = field(default_factory=dict)


def read_settings(table: Any) -> Settings:
    """Read settings that a page has sent; their ranges are checked by `make_job_run`.

    Raises:
        ConfigError: they are no table, a name is unknown, or a value has the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"settings must be a table, not {quote(table)}", hint="send them as a JSON object")
    plain = {name: value for name, value in table.items() if name != "constants" and value is not None}
    settings: Settings = from_table(Settings, plain)
    return replace(settings, constants=_read_constants(table.get("constants", {})))


def _read_constants(table: Any) -> dict[str, Any]:
    if not isinstance(table, Mapping) or len(table) > MOST_CONSTANTS:
        raise ConfigError(f"constants must be a table of at most {MOST_CONSTANTS} numbers, not {quote(table)}")
    return {convert(name, str, "constants"): value for name, value in table.items()}


def make_job_run(settings: Settings, style_list: StyleList, model: str, device: str = "auto") -> RunConfig:
    """Return the checked configuration of a run.

    Raises:
        InputError: a style that the studio does not have, or a value out of range.
    """
    empty: dict[str, Any] = {}
    constants = reduce(merge_tables, (_nest(name, value) for name, value in settings.constants.items()), empty)
    return make_run(
        style_list.find(settings.style).location,
        model=model,
        prompt=settings.caption,
        settings=constants,
        content=settings.content,
        style_prompt=settings.style_prompt or None,
        size=settings.size,
        seed=settings.seed,
        device=device,
    )


def preset_constants(style: str, style_list: StyleList, model: str) -> dict[str, Any]:
    """Return the preset's constants for a style by dotted names, and the run's own fields beside them."""
    run = make_job_run(Settings(style=style), style_list, model)
    return dict(_flatten("", to_table(run.method)))


def settings_of_record(text: str, style_list: StyleList, model: str) -> tuple[Settings, list[str]]:
    """Return the settings that make a finished picture again, and notes on what this studio cannot repeat.

    Args:
        text: the record that the picture holds.
        style_list: the styles of the studio.
        model: the studio's model.

    Raises:
        InputError: it is no record of a stylized picture, or its style is not among the studio's.
    """
    run = _run_of_record(text)
    if not run.styles:
        raise StyleError("the recipe in this picture names no style", hint="choose a style")
    style = style_list.find(Path(run.styles[0].name).name.removesuffix(".safetensors"))
    own = preset_constants(style.name, style_list, model)
    constants = {name: value for name, value in _flatten("", to_table(run.method)) if own.get(name) != value}
    if run.styles[0].weight != 1:
        constants["style_strength"] = run.method.style_strength * run.styles[0].weight
    settings = Settings(
        style=style.name,
        content=run.content,
        caption=run.caption,
        style_prompt=run.style_prompt,
        size=run.size,
        seed=run.seed,
        constants=constants,
    )
    return settings, list(_differences(run, model, masked=bool(_parse(text).get("mask"))))


def photo_hash(text: str) -> str | None:
    """Return the SHA-256 of the photo that a record names, if it does."""
    hashes = _parse(text).get("hashes")
    found = hashes.get("photo") if isinstance(hashes, Mapping) else None
    return found if isinstance(found, str) else None


def _run_of_record(text: str) -> RunConfig:
    table = _parse(text)
    if table.get("command") != "stylize" or not isinstance(table.get("run"), Mapping):
        raise ConfigError("the recipe in this picture is not one of a stylized photo", hint="choose the settings")
    run: RunConfig = from_table(RunConfig, table["run"])
    if not isinstance(run.method, MethodConfig):
        raise ConfigError("the recipe in this picture has no constants of the method", hint="choose the settings")
    return run


def _parse(text: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(
            f"the recipe in this picture cannot be read: {error}", hint="choose the settings by hand"
        ) from error


def _differences(run: RunConfig, model: str, *, masked: bool) -> Iterator[str]:
    """Yield what a run had that settings of the studio cannot say."""
    if len(run.styles) > 1:
        yield f"it mixed {len(run.styles)} styles; the first is chosen"
    if Path(run.model).name != Path(model).name:
        yield f"it was made with the model {Path(run.model).name}, this studio has {Path(model).name}"
    plain = RunConfig(styles=run.styles)
    others = [name for name in _NOT_OFFERED if getattr(run, name) != getattr(plain, name)]
    if others := [*others, *(["mask"] if masked else [])]:
        yield f"it also had {', '.join(others)}, which this page does not offer"


def _nest(name: str, value: Any) -> dict[str, Any]:
    """Return a value under the parts of a dotted name."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def _flatten(name: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        full = f"{name}.{key}" if name else key
        if isinstance(value, Mapping):
            yield from _flatten(full, value)
        else:
            yield full, value
