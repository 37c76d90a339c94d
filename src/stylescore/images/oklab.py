"""The photo's colours on the stylized picture: lightness from one, chroma from the other, in Oklab."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Planes = NDArray[np.float32]

ROWS = 256
"""Rows that are processed at a time."""
HALVINGS = 8
"""Steps of the bisection that brings a colour into the range of sRGB: chroma is right within 1/256."""

# Source of the matrices: Bjoern Ottosson, "A perceptual color space for image processing" (2020).
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_FROM_LAB = np.linalg.inv(_TO_LAB.astype(np.float64)).astype(np.float32)
_FROM_CONES = np.linalg.inv(_TO_CONES.astype(np.float64)).astype(np.float32)
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(np.float32)
_TOLERANCE = 1e-4


def keep_colours(picture: Image.Image, photo: Image.Image, share: float) -> Image.Image:
    """Return a stylized picture with the chroma of its photo, mixed in by `share`; lightness stays that of the picture.

    With a and b Oklab's colour axes, the result has (1 - share) (a, b) of the picture + share (a, b) of the photo.
    Where that is no sRGB colour at this lightness, its chroma is reduced until it is one; hue and lightness stay.

    Args:
        picture: "RGB".
        photo: "RGB" of the same size.
        share: from 0, which returns the picture itself, to 1.
    """
    if share == 0:
        return picture
    mixed = Image.new("RGB", picture.size)
    for top in range(0, picture.height, ROWS):
        box = (0, top, picture.width, min(top + ROWS, picture.height))
        lab, own = (to_oklab(np.asarray(each.crop(box))) for each in (picture, photo))
        lab[..., 1:] = (1 - share) * lab[..., 1:] + share * own[..., 1:]
        mixed.paste(Image.fromarray(from_oklab(lab)), (0, top))
    return mixed


def to_oklab(pixels: NDArray[np.uint8]) -> Planes:
    """Convert sRGB, uint8 of [..., 3], to Oklab: lightness from 0 to 1, then the axes a and b."""
    return np.asarray(np.cbrt(_LINEAR[pixels] @ _TO_CONES.T) @ _TO_LAB.T)


def from_oklab(lab: Planes) -> NDArray[np.uint8]:
    """Convert Oklab, [..., 3], to sRGB, uint8; of colours outside of sRGB's range the chroma is reduced."""
    flat = lab.reshape(-1, 3)
    linear = _to_linear(flat)
    outside = ((linear < -_TOLERANCE) | (linear > 1 + _TOLERANCE)).any(axis=1)
    if outside.any():
        linear[outside] = _to_linear(_reduce_chroma(flat[outside]))
    return np.asarray(np.rint(255 * _encode(linear.clip(0, 1))), dtype=np.uint8).reshape(lab.shape)


def _to_linear(lab: Planes) -> Planes:
    return np.asarray((lab @ _FROM_LAB.T) ** 3 @ _FROM_CONES.T)


def _reduce_chroma(lab: Planes) -> Planes:
    """Return colours with the largest part of their chroma that is in range, by bisection."""
    low, step = np.zeros((len(lab), 1), dtype=np.float32), np.float32(0.5)
    for _ in range(HALVINGS):
        linear = _to_linear(_scale_chroma(lab, low + step))
        inside = ((linear >= -_TOLERANCE) & (linear <= 1 + _TOLERANCE)).all(axis=1, keepdims=True)
        low, step = np.where(inside, low + step, low), step / 2
    return _scale_chroma(lab, low)


def _scale_chroma(lab: Planes, factor: Planes) -> Planes:
    return np.concatenate([lab[:, :1], lab[:, 1:] * factor], axis=1)


def _encode(linear: Planes) -> Planes:
    """Return linear light as sRGB values from 0 to 1 (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
