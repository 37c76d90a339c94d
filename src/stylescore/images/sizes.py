"""Computes sizes that a model can work at, and resizes pictures to them. No torch."""

from __future__ import annotations

from PIL import Image

from stylescore.errors import ConfigError, PictureError

MAX_ASPECT = 8
"""Largest ratio of the two sides. Models are not trained on longer strips."""


def fitted_size(width: int, height: int, short_side: int, multiple: int = 8) -> tuple[int, int]:
    """Return the size at which a picture is passed to the model.

    The short side becomes `short_side`, the aspect ratio gives the long side, and both are rounded to `multiple`.

    Args:
        width: of the picture, at least 1.
        height: of the picture, at least 1.
        short_side: length of the shorter side in pixels, at least 1.
        multiple: what both sides must be divisible by, at least 1.

    Returns:
        Width and height, each a multiple of `multiple` and at least `multiple`.

    Raises:
        PictureError: the picture has no pixels, or its sides differ by a factor of more than `MAX_ASPECT`.
        ConfigError: `short_side` or `multiple` is below 1.
    """
    _check_sides(width, height)
    _check_positive("short_side", short_side)
    _check_positive("multiple", multiple)
    short = min(width, height)
    return _round_to_multiple(width * short_side, short, multiple), _round_to_multiple(
        height * short_side, short, multiple
    )


def resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize a picture to `size` (width, height) with PIL's Lanczos filter, which averages when it shrinks."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _round_to_multiple(numerator: int, denominator: int, multiple: int) -> int:
    """Return numerator / denominator rounded to the nearest positive multiple, in exact integers."""
    step = denominator * multiple
    return max(1, (2 * numerator + step) // (2 * step)) * multiple


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise PictureError(
            f"too small: each side must have at least 1 pixel, got {(width, height)!r}", hint="use a larger picture"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(
            f"too elongated: one side may be at most {MAX_ASPECT} times the other, got {(width, height)!r}",
            hint="crop the picture",
        )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(
            f"{name} must be at least 1, got {value!r}", hint="most models take a short_side of 512 and a multiple of 8"
        )
