"""Enlarges a stylized picture, guided by the edges of its photo. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from stylescore.images.sizes import resize

RADIUS = 2
"""Half-width of the window in pixels of the small picture: 5 x 5. In 3 x 3 photo and style agree by chance, and 7 x 7
is no better."""

EPS = np.float32(16)
"""Variance, in squared grey levels, below which photo or style count as flat: a standard deviation of 4 levels."""

THRESHOLD = 6.0
"""Grey levels that detail of the photo must exceed: edges do, grain and most texture do not."""

ROWS = 256
"""Rows of the large picture that are processed at a time."""

Plane = NDArray[np.float32]
Box = tuple[float, float, float, float]

_GREY = 127.5
_SIDE = 2 * RADIUS + 1
_LANCZOS, _BILINEAR, _AVERAGE = Image.Resampling.LANCZOS, Image.Resampling.BILINEAR, Image.Resampling.BOX


@dataclass(frozen=True)
class _Channel:
    """What one colour channel is enlarged from, all of the small size.

    Attributes:
        values: the channel.
        gain: grey levels added for each grey level of the photo's detail.
        lowest: minimum in every pixel's window.
        highest: maximum in every pixel's window.
    """

    values: Image.Image
    gain: Image.Image
    lowest: Image.Image
    highest: Image.Image


def upsample_guided(picture: Image.Image, guide: Image.Image) -> Image.Image:
    """Enlarge a stylized picture to its photo's size, with the photo's edges where the style follows them.

    The result is the Lanczos enlargement plus the photo's fine detail times a local gain. Source: He, Sun and Tang,
    "Guided Image Filtering", ECCV 2010; as in its fast form (arXiv 1505.00996), the linear model is fitted between the
    small pictures. Three differences keep texture and halos out: the gain falls with the correlation of photo and
    style, weak detail is left out, and no value leaves the picture's local range.

    Args:
        picture: "RGB", at the model's size.
        guide: "RGB", the photo at its own size.

    Returns:
        An "RGB" picture of the guide's size; by Lanczos alone if the guide is shorter on a side than the picture.
    """
    if picture.size == guide.size or guide.width < picture.width or guide.height < picture.height:
        return resize(picture, guide.size)
    luma = guide.convert("L")
    small, power = _reduce(luma, picture.size)
    channels = [_fit_channel(channel, small, power) for channel in picture.split()]
    enlarged = Image.new("RGB", guide.size)
    for top, bottom, box in _strips(picture.height, guide.height, picture.width):
        strip = luma.crop((0, top, guide.width, bottom))
        blurred = _stretch(Image.fromarray(small), strip.size, box, _LANCZOS)
        detail = soft_threshold(_plane(strip) - _GREY - blurred, THRESHOLD)
        enlarged.paste(Image.merge("RGB", [_enlarge(channel, detail, box) for channel in channels]), (0, top))
    return enlarged


def soft_threshold(values: Plane, threshold: float) -> Plane:
    """Move values towards 0 by `threshold`; those within it become 0."""
    return values - np.clip(values, -threshold, threshold)


def window_mean(plane: Plane) -> Plane:
    """Return the mean over every pixel's window; pixels of the border are repeated outwards."""
    height, width = plane.shape
    padded = np.pad(plane, RADIUS, mode="edge")
    rows = reduce(np.add, (padded[i : i + height] for i in range(_SIDE)))
    return reduce(np.add, (rows[:, i : i + width] for i in range(_SIDE))) / np.float32(_SIDE**2)


def slope_and_agreement(channel: Plane, luma: Plane, power: Plane) -> tuple[Plane, Plane]:
    """Return the slope of a channel on the photo's luma in every window, and their agreement, from 0 to 1.

    The slope is the guided filter's a = cov(I, p) / (var(I) + eps). The agreement is the squared correlation, where the
    variance of the photo is that of its own pixels: between the small pixels plus within them. Nearly all variance of
    an edge is between small pixels; that of finer texture is within them, which lowers the agreement.

    Args:
        channel: p, of the small size.
        luma: I, the photo's luma averaged to the small size.
        power: the photo's squared luma averaged to the small size.
    """
    mean, channel_mean = window_mean(luma), window_mean(channel)
    covariance = window_mean(luma * channel) - mean * channel_mean
    between, whole = (window_mean(square) - mean * mean for square in (luma * luma, power))
    variance = window_mean(channel * channel) - channel_mean * channel_mean
    slope = np.divide(covariance, between + EPS)
    return slope, np.divide(covariance * covariance, (whole + EPS) * (variance + EPS))


def _fit_channel(channel: Image.Image, luma: Plane, power: Plane) -> _Channel:
    slope, agreement = slope_and_agreement(_plane(channel) - _GREY, luma, power)
    lowest, highest = channel.filter(ImageFilter.MinFilter(_SIDE)), channel.filter(ImageFilter.MaxFilter(_SIDE))
    return _Channel(channel.convert("F"), Image.fromarray(slope * agreement), lowest, highest)


def _reduce(luma: Image.Image, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return the luma and its square averaged to `size`, relative to mid grey, for the precision of float32."""
    plane = _plane(luma) - _GREY
    small, power = (_plane(Image.fromarray(values).resize(size, _AVERAGE)) for values in (plane, plane * plane))
    return small, power


def _strips(small: int, large: int, width: int) -> Iterator[tuple[int, int, Box]]:
    """Yield first row, end row and box in the small picture for every strip of the large picture."""
    for top in range(0, large, ROWS):
        bottom = min(top + ROWS, large)
        yield top, bottom, (0, top * small / large, width, bottom * small / large)


def _enlarge(channel: _Channel, detail: Plane, box: Box) -> Image.Image:
    """Return one strip of a channel: its enlargement plus gain times detail, clipped to the local range."""
    size = (detail.shape[1], detail.shape[0])
    values = _stretch(channel.values, size, box, _LANCZOS) + _stretch(channel.gain, size, box, _BILINEAR) * detail
    lowest, highest = (_stretch(bound, size, box, _BILINEAR) for bound in (channel.lowest, channel.highest))
    return Image.fromarray(np.rint(np.clip(values, lowest, highest)).astype(np.uint8))


def _stretch(image: Image.Image, size: tuple[int, int], box: Box, method: Image.Resampling) -> Plane:
    return _plane(image.resize(size, method, box=box))


def _plane(image: Image.Image) -> Plane:
    return np.asarray(image, dtype=np.float32)
