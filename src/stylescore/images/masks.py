"""Masks: which part of a photo is stylized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFilter

from stylescore.errors import PictureError
from stylescore.images.inputs import as_photo
from stylescore_apply.images.reading import Photo

FEATHER = 0.01
"""Width of a mask's soft edge, as a part of the photo's short side, where none is stated."""
LARGEST_DIFFERENCE = 0.01
"""How much the aspect ratio of a mask may differ from that of its photo; rounding makes small pictures differ so."""


def with_mask(photo: Photo, mask: Any, feather: float | None = None) -> Photo:
    """Return a photo that is stylized where a mask is white, and stays as it is where the mask is black.

    Args:
        photo: the photo.
        mask: a path, a PIL image, an array or a tensor, as for `as_photo`; transparent parts count as black. It is
            resized to the photo, and turned like it if it was made for the file's unturned pixels.
        feather: width in pixels of the photo of the soft edge, which lies inside of the white part; 0 for none, `None`
            for `FEATHER` of the short side.

    Raises:
        PictureError: the mask cannot be read, is painted by its transparency alone, or has another aspect ratio than
            the photo.
    """
    name = _name_of(mask)
    plain = fit_mask(_read_grey(mask, name), photo, name)
    width = round(FEATHER * min(photo.picture.size)) if feather is None else feather
    return replace(photo, mask=soften(plain, width))


def fit_mask(mask: Image.Image, photo: Photo, name: str) -> Image.Image:
    """Return a mask, "L", at the size of its photo, and turned like it.

    Raises:
        PictureError: it has another aspect ratio.
    """
    size = photo.picture.size
    turned = mask if photo.turned is None else mask.transpose(photo.turned)
    for each in (mask, turned):
        if _has_aspect(each.size, size):
            # Bilinear: a sharper filter would leave grey traces in the black.
            return each if each.size == size else each.resize(size, Image.Resampling.BILINEAR)
    raise PictureError(
        f"the mask {name!r} has another aspect ratio than its photo: {mask.width} x {mask.height}, not that of "
        f"{size[0]} x {size[1]}",
        hint="save the mask at the photo's size",
    )


def soften(mask: Image.Image, width: float) -> Image.Image:
    """Return a mask whose edges rise from black to white within about `width` pixels, inside of the part not black.

    What is black stays black, so that the photo's own pixels stay there. With m the mask, s where it is not black, and
    G a Gaussian blur of standard deviation width / 2, the result is m max(0, 2 G(s) - 1): at a straight edge G(s) is
    1/2, and two standard deviations inside of it nearly 1.
    """
    if width <= 0:
        return mask
    inside = mask.point(lambda value: 255 * (value > 0))
    blurred = inside.filter(ImageFilter.GaussianBlur(width / 2))
    return ImageChops.multiply(mask, blurred.point(lambda value: max(0, 2 * value - 255)))


def _has_aspect(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Return whether two sizes have one aspect ratio, but for `LARGEST_DIFFERENCE`."""
    ratio = size[0] * wanted[1] / (size[1] * wanted[0])
    return abs(ratio - 1) <= LARGEST_DIFFERENCE


def _read_grey(mask: Any, name: str) -> Image.Image:
    """Return a mask as "L", black where it is transparent."""
    read = as_photo(mask)
    grey = read.picture.convert("L")
    if read.alpha is None:
        return grey
    visible = ImageChops.multiply(grey, read.alpha)
    if visible.getextrema() == (0, 0):
        raise PictureError(
            f"the mask {name!r} is painted by its transparency alone: all that can be seen of it is black, so that "
            "nothing would be stylized",
            hint="paint white on black",
        )
    return visible


def _name_of(mask: Any) -> str:
    return str(mask) if isinstance(mask, str | Path) else "given"
