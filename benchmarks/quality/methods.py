"""The methods of the table, and how each makes its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.references import render
from benchmarks.quality.split import Photos
from stylescore.assembly.one_step import open_network
from stylescore.assembly.stylizer import Stylizer
from stylescore.baselines import sdedit
from stylescore.config.method import Method
from stylescore.config.presets import preset_for
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError
from stylescore.images import as_photo
from stylescore.method.fit import Fitting, fit
from stylescore_apply.names import ENDING
from stylescore_apply.networks import Network
from stylescore_apply.stylizing import Settings
from stylescore_apply.stylizing import stylize as apply_network

STEPS = 25
NO_SPECTRUM = {"spectrum": {"weight": 0.0}}
MAP = {"relevance": {"strength": 0.5}}
"""The bundled model's preset has no map in the middle of its knob, the paper's method has one."""


@dataclass
class Studio:
    """A model with its styles, each loaded once.

    Attributes:
        run: configuration of all runs; its styles and method are replaced.
        settings: changes to the constants of the model's preset.
        style_files: path of each style's LoRA.
        generators: path of each style's one-step generator, where there is one.
        mobiles: path of each style's small network, where there is one.
    """

    run: RunConfig
    settings: dict[str, Any]
    style_files: dict[str, str]
    generators: dict[str, Path] = field(default_factory=dict)
    mobiles: dict[str, Path] = field(default_factory=dict)
    stylizers: dict[str, Stylizer] = field(default_factory=dict)
    networks: dict[Path, Network] = field(default_factory=dict)

    def stylizer(self, style: str, method: Method | None, changes: dict[str, Any], content: float) -> Stylizer:
        """Return a stylizer with the model's preset for a method and the given changes."""
        own = preset_for(self.run.model, None, method, [style])
        constants = overlay(overlay(own, self.settings), changes)
        run = replace(self.run, styles=(StyleChoice(name=self.style_files[style]),), method=constants, content=content)
        if style not in self.stylizers:
            self.stylizers[style] = Stylizer(run)
        return self.stylizers[style].with_run(run)

    def network(self, file: Path) -> Network:
        """Return the generator in a file."""
        if file not in self.networks:
            model = None if file.suffix == ENDING else self.run.model
            self.networks[file] = open_network(file, model, self.run.execution.device)
        return self.networks[file]


Recipe = Callable[[Studio, str, Photos], list[Image.Image]]
"""Makes pictures in a style from photos."""


def start_run(stylizer: Stylizer, photos: Photos) -> Fitting:
    """Start a run over a batch of photos, each with its caption."""
    return stylizer.start([as_photo(Image.fromarray(pixels)) for pixels in photos.pixels], captions=photos.captions)


def copy_photos(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Return the photos unchanged."""
    return [Image.fromarray(pixels) for pixels in photos.pixels]


def render_style(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Render the style with its program."""
    return [Image.fromarray(render(style, p, row)) for p, row in zip(photos.pixels, photos.rows, strict=True)]


def decode_rendering(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Render the style with its program, then encode and decode: what is lost is lost by the autoencoder."""
    stylizer = studio.stylizer(style, None, {}, 0.5)
    drawn = [to_pixels(picture) for picture in render_style(studio, style, photos)]
    return stylizer.decode(start_run(stylizer, replace(photos, pixels=np.stack(drawn))).subject.render())


def make_sdedit(strength: float) -> Recipe:
    """Return SDEdit with a strength; at 1 hardly anything of the photo remains, and its caption decides."""

    def recipe(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
        stylizer = studio.stylizer(style, "sds", {}, 0.5)
        fitting = start_run(stylizer, photos)
        _, z_source = fitting.subject.draw(fitting.rng)
        schedule = fitting.objective.schedule
        score = fitting.scores["style"]
        return stylizer.decode(sdedit(score, schedule, z_source, strength=strength, steps=STEPS, rng=fitting.rng))

    return recipe


def make_run(method: Method | None, changes: dict[str, Any], content: float = 0.5) -> Recipe:
    """Return a whole run of a method."""

    def recipe(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
        stylizer = studio.stylizer(style, method, changes, content)
        fitting = start_run(stylizer, photos)
        for _ in fit(fitting):
            pass
        return stylizer.decode(fitting.subject.render())

    return recipe


def make_one_step(passes: int | None, *, small: bool = False) -> Recipe:
    """Return the style's one-step generator, or small network, applied so many times; `None` as its file states."""

    def recipe(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
        file = (studio.mobiles if small else studio.generators)[style]
        network, settings = studio.network(file), Settings(seed=studio.run.seed, passes=passes)
        return [Image.fromarray(apply_network(network, pixels, settings)) for pixels in photos.pixels]

    return recipe


@dataclass(frozen=True)
class Row:
    """A method's label in the table, and its recipe."""

    label: str
    make: Recipe


ONE_STEP = ("one-step", "one-step-twice", "generator")
SMALL = "mobile"
ROWS: dict[str, Row] = {
    "source": Row("the photo, unchanged", copy_photos),
    "renderer": Row("the program the style was learned from", render_style),
    "renderer-decoded": Row("the same, encoded and decoded", decode_rendering),
    "generated": Row("the style model, from noise", make_sdedit(1.0)),
    **{f"sdedit-{s:.2f}": Row(f"SDEdit, strength {s:g}", make_sdedit(s)) for s in (0.3, 0.45, 0.6, 0.7, 0.8)},
    "sds": Row("SDS", make_run("sds", {})),
    "dds": Row("DDS", make_run("dds", {})),
    "vsd": Row("VSD", make_run("vsd", {})),
    "sms-neither": Row("SMS without spectrum", make_run("sms", NO_SPECTRUM)),
    "sms-map": Row("SMS with a relevance map, without spectrum", make_run("sms", {**MAP, **NO_SPECTRUM})),
    "sms-full": Row("SMS with a relevance map", make_run("sms", MAP)),
    **{f"sms-{c:.2f}": Row(f"SMS, content {c:g}", make_run("sms", {}, c)) for c in (0.0, 0.25, 0.5, 0.75, 1.0)},
    "one-step": Row("one-step generator, taught by SMS", make_one_step(1)),
    "one-step-twice": Row("the same, in two passes", make_one_step(2)),
    "generator": Row("the same, as its file states", make_one_step(None)),
    "mobile": Row("small network, as its file states", make_one_step(None, small=True)),
}
MAIN = ("source", "renderer", "renderer-decoded", "sdedit-0.60", "sms-0.50", *ONE_STEP)
"""Rows that are compared over more photos where they have pictures of more."""


def select_methods(names: Sequence[str] | None, missing: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Return the requested methods in the table's order, or all that every style has for `None`.

    Args:
        names: the requested methods.
        missing: by method, the styles that have no generator for it.

    Raises:
        ConfigError: a generator is requested, and a style has none.
    """
    missing = {method: styles for method, styles in (missing or {}).items() if styles}
    asked = [] if names is None else [name for name in ROWS if name in names and name in missing]
    if asked:
        raise ConfigError(
            f"there is no {'small network' if asked[0] == SMALL else 'one-step generator'} of "
            f"{', '.join(missing[asked[0]])}",
            hint=f"leave {' and '.join(asked)} out of --methods, or name other --styles",
        )
    chosen = list(ROWS) if names is None else names
    return [name for name in ROWS if name in chosen and name not in missing]


def to_pixels(picture: Image.Image) -> np.ndarray:
    """Return a picture as uint8, [height, width, 3]."""
    return np.asarray(picture.convert("RGB"))
