"""The rows of the table: what is done to a photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.references import render
from benchmarks.quality.split import Photos
from stylescore.assembly.api import as_photo
from stylescore.assembly.stylizer import Stylizer
from stylescore.baselines import sdedit
from stylescore.config.method import Method
from stylescore.config.presets import preset_for
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.config.toml import overlay
from stylescore.method.fit import Fitting, fit

STEPS = 25


@dataclass
class Studio:
    """Where pictures are made: a model with its styles, each loaded once.

    Attributes:
        run: what all runs share; its styles and method are replaced.
        settings: constants that differ from the model's preset.
        style_files: the adapter of each style.
    """

    run: RunConfig
    settings: dict[str, Any]
    style_files: dict[str, str]
    stylizers: dict[str, Stylizer] = field(default_factory=dict)

    def stylizer(self, style: str, method: Method | None, changes: dict[str, Any], content: float) -> Stylizer:
        """Return a stylizer with the model's preset for a method, changed."""
        own = preset_for(self.run.model, None, method, [style])
        constants = overlay(overlay(own, self.settings), changes)
        run = replace(self.run, styles=(StyleChoice(name=self.style_files[style]),), method=constants, content=content)
        if style not in self.stylizers:
            self.stylizers[style] = Stylizer(run)
        return self.stylizers[style].with_run(run)


Recipe = Callable[[Studio, str, Photos], list[Image.Image]]
"""Makes pictures in a style from photos."""


def started(stylizer: Stylizer, photos: Photos) -> Fitting:
    """Assemble a run over a batch of photos, each with its caption."""
    return stylizer.start([as_photo(Image.fromarray(pixels)) for pixels in photos.pixels], captions=photos.captions)


def unchanged(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Return the photos."""
    return [Image.fromarray(pixels) for pixels in photos.pixels]


def rendered(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Return what the style's own program draws."""
    return [Image.fromarray(render(style, p, row)) for p, row in zip(photos.pixels, photos.rows, strict=True)]


def redecoded(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
    """Return what the style's own program draws after encoding and decoding: what the autoencoder alone costs."""
    stylizer = studio.stylizer(style, None, {}, 0.5)
    drawn = [pixels_of(picture) for picture in rendered(studio, style, photos)]
    return stylizer.decode(started(stylizer, replace(photos, pixels=np.stack(drawn))).subject.render())


def denoised(strength: float) -> Recipe:
    """Return SDEdit at a strength; at 1 little of the photo is left, and the model draws from its caption."""

    def recipe(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
        stylizer = studio.stylizer(style, "sds", {}, 0.5)
        fitting = started(stylizer, photos)
        _, z_source = fitting.subject.draw(fitting.rng)
        schedule = fitting.objective.schedule
        score = fitting.scores["style"]
        return stylizer.decode(sdedit(score, schedule, z_source, strength=strength, steps=STEPS, rng=fitting.rng))

    return recipe


def fitted(method: Method | None, changes: dict[str, Any], content: float = 0.5) -> Recipe:
    """Return a run of the method to its end."""

    def recipe(studio: Studio, style: str, photos: Photos) -> list[Image.Image]:
        stylizer = studio.stylizer(style, method, changes, content)
        fitting = started(stylizer, photos)
        for _ in fit(fitting):
            pass
        return stylizer.decode(fitting.subject.render())

    return recipe


@dataclass(frozen=True)
class Row:
    """A method by the words of the table, and what makes its pictures."""

    words: str
    make: Recipe


ROWS: dict[str, Row] = {
    "source": Row("the photo, unchanged", unchanged),
    "renderer": Row("the program the style was learned from", rendered),
    "renderer-decoded": Row("the same, encoded and decoded", redecoded),
    "generated": Row("the style model, from noise", denoised(1.0)),
    **{f"sdedit-{s:.2f}": Row(f"SDEdit, strength {s:g}", denoised(s)) for s in (0.3, 0.45, 0.6, 0.7, 0.8)},
    "sds": Row("SDS", fitted("sds", {})),
    "dds": Row("DDS", fitted("dds", {})),
    "vsd": Row("VSD", fitted("vsd", {})),
    "sms-no-spectrum": Row("SMS without spectrum", fitted("sms", {"spectrum": {"weight": 0.0}})),
    "sms-no-relevance": Row("SMS without relevance", fitted("sms", {"relevance": {"strength": 0.0}})),
    **{f"sms-{c:.2f}": Row(f"SMS, content {c:g}", fitted("sms", {}, c)) for c in (0.0, 0.25, 0.5, 0.75, 1.0)},
}


def chosen(names: Sequence[str] | None) -> list[str]:
    """Return the methods asked for, in the table's order."""
    return [name for name in ROWS if names is None or name in names]


def pixels_of(picture: Image.Image) -> np.ndarray:
    """Return a picture as uint8, [height, width, 3]."""
    return np.asarray(picture.convert("RGB"))
