"""One function for the common case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from stylescore.assembly.stylizer import Result, Stylizer
from stylescore.config.method import Method
from stylescore.config.presets import origin, preset_for
from stylescore.config.run import RunConfig, StyleChoice, with_options
from stylescore.config.toml import overlay
from stylescore.images import Photo, read_photo
from stylescore.images.colour import convert_to_srgb
from stylescore.method.fit import Iteration


def stylize(
    photo: str | Path | Image.Image,
    style: str,
    *,
    model: str = "mini",
    method: Method | None = None,
    preset: str | None = None,
    on_iteration: Callable[[Iteration], None] | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Stylize one photo.

    Args:
        photo: a file or a PIL image.
        style: a bundled or own style's name, an adapter file, or a hub id.
        model: a bundled model's name, a folder, a file, or a hub id.
        method: sms, vsd, sds, dds or pds; `None` takes the preset's.
        preset: a preset's name or file; `None` takes the model's own.
        on_iteration: called after every iteration.
        settings: constants that differ from the preset's, as nested tables, e.g. `{"iterations": 50}`.
        options: further fields of `RunConfig` or `ExecutionConfig`, e.g. `content=0.7`, `caption="a cat"`,
            `device="cuda"`.

    Returns:
        The result, with pictures as PIL images.

    Raises:
        InputError: something given cannot be used.
        NonFiniteError: the run produced NaN or infinity.
    """
    constants = overlay(preset_for(model, preset, method, [style]), settings or {})
    made_of = origin(model, preset, [style])
    run = RunConfig(styles=(StyleChoice(name=style),), model=model, method=constants, preset=made_of)
    run = with_options(run, options)
    source = as_photo(photo) if isinstance(photo, Image.Image) else read_photo(photo)
    for event in Stylizer(run)([source]):
        if isinstance(event, Result):
            return event
        if on_iteration is not None:
            on_iteration(event)
    raise AssertionError("a run ends with a result")


def as_photo(image: Image.Image) -> Photo:
    """Return a picture in memory as a photo, with its transparency and in sRGB; it is upright already."""
    picture, alpha, notes = convert_to_srgb(image)
    return Photo(Path("image"), picture, alpha, tuple(notes))
