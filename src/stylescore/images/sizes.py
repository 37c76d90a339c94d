"""Sizes a model can work at, and resizing to them. No torch."""

from __future__ import annotations

from PIL import Image

from stylescore.errors import ConfigError, PictureError

MAX_ASPECT = 8
"""Longest side over shortest. Beyond it the model would see a strip it was never trained on."""


def fitted_size(width: int, height: int, short_side: int, multiple: int = 8) -> tuple[int, int]:
    """Return the size at which a picture is given to the model.

    The short side becomes `short_side`, the long one follows the aspect, and both are rounded to `multiple`.

    Args:
        width: of the picture, at least 1.
        height: of the picture, at least 1.
        short_side: wanted length of the shorter side in pixels, at least 1.
        multiple: what both sides must be divisible by, at least 1.

    Returns:
        Width and height, each a multiple of `multiple` and at least `multiple`.

    Raises:
        PictureError: the picture has no pixels or is more than `MAX_ASPECT` times longer than wide.
        ConfigError: `short_side` or `multiple` is below 1.
    """
    _check_sides(width, height)
    _check_positive("short_side", short_side)
    _check_positive("multiple", multiple)
    short = min(width, height)
    return _rounded(width * short_side, short, multiple), _rounded(height * short_side, short, multiple)


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture at `size` (width, height); Lanczos, whose PIL form averages when shrinking."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _rounded(numerator: int, denominator: int, multiple: int) -> int:
    """Return numerator / denominator rounded to the nearest positive multiple, in exact integers."""
    step = denominator * multiple
    return max(1, (2 * numerator + step) // (2 * step)) * multiple


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise PictureError(f"a picture must have at least 1 pixel on each side, got {(width, height)!r}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(
            f"too elongated a picture: one side may be {MAX_ASPECT} times the other, got {(width, height)!r}",
            hint="crop it",
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value!r}", hint="512 by 8 suits most models")
