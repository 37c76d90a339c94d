"""Fully transparent pixels: their colours, which nobody sees, are replaced by those around them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SMALL_SIDE = 256
"""Longest side in pixels of the picture that the colours of hidden places are computed in; they are smooth."""

_WHITE = 255.0
Planes = NDArray[np.float64]


def fill_hidden(picture: Image.Image, alpha: Image.Image) -> Image.Image:
    """Return a picture in which pixels with alpha 0 have the colours of the visible ones around them.

    So two cut-outs that look the same are the same, whatever a program has left under their transparency.

    Args:
        picture: "RGB".
        alpha: "L" of the same size.
    """
    hidden = alpha.point(lambda value: 255 * (value == 0))
    if hidden.getbbox() is None:
        return picture
    shrink = min(1.0, SMALL_SIDE / max(picture.size))
    width, height = (max(1, round(shrink * side)) for side in picture.size)
    small = Image.fromarray(_spread_colours(*_reduce(picture, alpha, (width, height))))
    filled = picture.copy()
    filled.paste(small.resize(picture.size, Image.Resampling.BILINEAR), mask=hidden)
    return filled


def _reduce(picture: Image.Image, alpha: Image.Image, size: tuple[int, int]) -> tuple[Planes, Planes]:
    """Return colours times alpha, [h, w, 3], and alpha, [h, w, 1], averaged to a size."""
    premultiplied = Image.merge("RGBA", (*picture.split(), alpha)).convert("RGBa")
    small = premultiplied.resize(size, Image.Resampling.BOX)
    values = np.asarray(Image.frombytes("RGBA", small.size, small.tobytes()), dtype=np.float64)
    return values[..., :3], values[..., 3:]


def _spread_colours(colours: Planes, weights: Planes) -> NDArray[np.uint8]:
    """Return colours divided by their weights, and where these are 0 the mean of the nearest that are not.

    Every level of a pyramid averages 2 x 2 cells of the one below; an empty cell takes the value above it.
    """
    if not weights.any():
        return np.full(colours.shape, _WHITE, dtype=np.uint8)
    return np.rint(_divide(colours, weights)).clip(0, 255).astype(np.uint8)


def _divide(colours: Planes, weights: Planes) -> Planes:
    known = weights > 0
    values = np.divide(255 * colours, weights, out=np.zeros_like(colours), where=known)
    if known.all():
        return values
    height, width = weights.shape[:2]
    above = _divide(_halve(colours), _halve(weights)).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(known, values, above)


def _halve(plane: Planes) -> Planes:
    """Return the sums of 2 x 2 cells; an odd border is filled with zeros."""
    height, width = plane.shape[:2]
    even = np.pad(plane, ((0, height % 2), (0, width % 2), (0, 0)))
    return np.asarray(even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, -1).sum(axis=(1, 3)))
