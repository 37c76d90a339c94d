"""What a user chooses for a picture; how it becomes a run, and how a finished picture's record becomes it again."""

from __future__ import annotations

import re
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
MOST_MIXED = 8
"""Styles of one picture; each is an adapter that is computed in every iteration."""
MASK_ID = re.compile(r"[0-9a-f]{16}")
"""A mask's name: the beginning of its file's SHA-256, so that a record's hash leads to it."""
_NOT_OFFERED = ("style_model", "embeddings", "vae", "text_encoders", "clip_skip", "prompt_weights")
"""Fields of a run that change its picture and that the page has no place for."""
_TABLES = ("constants", "mixed")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user chooses for a picture.

    Attributes:
        style: name of a style of the studio.
        weight: of this style; multiplied with the style strength.
        mixed: styles that are mixed in, with their weights.
        content: 0 strongest style, 0.5 the preset as it is, 1 strongest content.
        caption: what the photo shows.
        style_prompt: prompt of the style; `None` takes the style's trigger words.
        size: short side in pixels that the photo is processed at; `None` leaves it to the preset.
        seed: of every random draw.
        negative_prompt: what guidance moves away from.
        keep_colours: how much of the photo's chroma the picture has, 0 to 1.
        mask: id of one of the photo's masks; `None` stylizes the whole photo.
        mask_feather: width in pixels of the mask's soft edge; `None` is a hundredth of the photo's short side.
        constants: constants of the method that differ from the preset's, by dotted names.
    """

    style: str
    weight: float = 1.0
    mixed: Mapping[str, float] = field(default_factory=dict)
    content: float = 0.5
    caption: str = ""
    style_prompt: str | None = None
    size: int | None = None
    seed: int = 0
    negative_prompt: str = ""
    keep_colours: float = 0.0
    mask: str | None = None
    mask_feather: int | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, float]:
        """All styles by name, with their weights, the first one first."""
        return {self.style: self.weight, **self.mixed}


def read_settings(table: Any) -> Settings:
    """Read settings that a page has sent; their ranges are checked by `make_job_run`.

    Raises:
        ConfigError: they are no table, a name is unknown, or a value has the wrong type.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"settings must be a table, not {quote(table)}", hint="send them as a JSON object")
    plain = {name: value for name, value in table.items() if name not in _TABLES and value is not None}
    settings: Settings = from_table(Settings, plain)
    if settings.mask is not None and not MASK_ID.fullmatch(settings.mask):
        raise ConfigError(f"mask must be the id of a mask, not {quote(settings.mask)}", hint="paint it again")
    constants, mixed = _read_constants(table.get("constants", {})), _read_mixed(table.get("mixed", {}))
    if settings.style in mixed:
        raise ConfigError(f"the style {quote(settings.style)} cannot be mixed with itself", hint="change its weight")
    return replace(settings, constants=constants, mixed=mixed)


def _read_mixed(table: Any) -> dict[str, float]:
    if not isinstance(table, Mapping) or len(table) >= MOST_MIXED:
        raise ConfigError(
            f"mixed must be a table of at most {MOST_MIXED - 1} weights, not {quote(table)}", hint="mix fewer styles"
        )
    return {convert(name, str, "mixed"): convert(weight, float, f"mixed.{name}") for name, weight in table.items()}


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
        {style_list.find(name).location: weight for name, weight in settings.weights.items()},
        model=model,
        prompt=settings.caption,
        settings=constants,
        content=settings.content,
        style_prompt=settings.style_prompt or None,
        negative_prompt=settings.negative_prompt,
        keep_colours=settings.keep_colours,
        mask_feather=settings.mask_feather,
        size=settings.size,
        seed=settings.seed,
        device=device,
    )


def preset_constants(
    style: str, style_list: StyleList, model: str, mixed: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the preset's constants for a style, or several, by dotted names."""
    run = make_job_run(Settings(style=style, mixed=mixed or {}), style_list, model)
    return dict(_flatten("", to_table(run.method)))


def settings_of_record(text: str, style_list: StyleList, model: str) -> tuple[Settings, list[str]]:
    """Return the settings that make a finished picture again, and notes on what this studio cannot repeat.

    A mask is named by its hash; whether the studio has it depends on the photo.

    Args:
        text: the record that the picture holds.
        style_list: the styles of the studio.
        model: the studio's model.

    Raises:
        InputError: it is no record of a stylized picture, or none of its styles is among the studio's.
    """
    run = _run_of_record(text)
    if not run.styles:
        raise StyleError("the recipe in this picture names no style", hint="choose a style")
    weights, missing = _known_weights(run, style_list)
    (style, weight), *others = weights.items()
    own = preset_constants(style, style_list, model, dict(others))
    settings = Settings(
        style=style,
        weight=weight,
        mixed=dict(others),
        content=run.content,
        caption=run.caption,
        style_prompt=run.style_prompt,
        size=run.size,
        seed=run.seed,
        negative_prompt=run.negative_prompt,
        keep_colours=run.keep_colours,
        mask=_mask_id(text),
        mask_feather=run.mask_feather,
        constants={name: value for name, value in _flatten("", to_table(run.method)) if own.get(name) != value},
    )
    return settings, [*missing, *_differences(run, model)]


def _known_weights(run: RunConfig, style_list: StyleList) -> tuple[dict[str, float], list[str]]:
    """Return the weights of a run's styles that the studio has, and a note on the others.

    Raises:
        StyleError: it has none of them.
    """
    weights: dict[str, float] = {}
    missing: list[str] = []
    for choice in run.styles:
        try:
            name = style_list.find(Path(choice.name).name.removesuffix(".safetensors")).name
        except StyleError:
            if choice is run.styles[-1] and not weights:
                raise
            missing.append(Path(choice.name).name)
        else:
            weights[name] = weights.get(name, 0.0) + choice.weight
    note = f"it also had the style {', '.join(missing)}, which this studio does not have"
    return weights, [note] if missing else []


def photo_hash(text: str) -> str | None:
    """Return the SHA-256 of the photo that a record names, if it does."""
    return _hash(text, "photo")


def has_mask(text: str) -> bool:
    """Return whether a picture was made with a mask."""
    return bool(_parse(text).get("mask"))


def _mask_id(text: str) -> str | None:
    """Return the id that the mask of a record has, if this studio has painted it."""
    digest = (_hash(text, "mask") or "")[:16]
    return digest if MASK_ID.fullmatch(digest) else None


def _hash(text: str, name: str) -> str | None:
    hashes = _parse(text).get("hashes")
    found = hashes.get(name) if isinstance(hashes, Mapping) else None
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


def _differences(run: RunConfig, model: str) -> Iterator[str]:
    """Yield what a run had that settings of the studio cannot state."""
    if Path(run.model).name != Path(model).name:
        yield f"it was made with the model {Path(run.model).name}, this studio has {Path(model).name}"
    plain = RunConfig(styles=run.styles)
    others = [name for name in _NOT_OFFERED if getattr(run, name) != getattr(plain, name)]
    if others:
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
