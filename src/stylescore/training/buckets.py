"""Sizes at which pictures are trained on: all of one square, or buckets of like aspect, without enlarging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING

from stylescore.errors import PictureError
from stylescore.training.pictures import TrainingPicture

if TYPE_CHECKING:
    from stylescore.diffusion.checkpoints.loading import Components

Size = tuple[int, int]
"""Width and height in pixels."""
_NAMED = 6
"""Buckets that a note names."""


@dataclass(frozen=True)
class Buckets:
    """The size of each picture.

    Attributes:
        pictures: all of them.
        sizes: one a picture.
        resolution: a picture has at most `resolution**2` pixels.
    """

    pictures: Sequence[TrainingPicture]
    sizes: Sequence[Size]
    resolution: int

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the pictures of each size, every one as often as an epoch uses it."""
        found: dict[Size, list[int]] = {}
        for number, (picture, size) in enumerate(zip(self.pictures, self.sizes, strict=True)):
            found.setdefault(size, []).extend([number] * picture.repeats)
        return tuple(map(tuple, found.values()))

    def describe(self) -> str:
        """Return one line on the sizes, the most frequent first."""
        counts = {size: self.sizes.count(size) for size in dict.fromkeys(self.sizes)}
        ordered = sorted(counts, key=lambda size: -counts[size])
        named = [f"{width}x{height} ({counts[width, height]})" for width, height in ordered[:_NAMED]]
        more = [f"and {len(ordered) - _NAMED} more"] if len(ordered) > _NAMED else []
        small = sum(picture.width * picture.height < self.resolution**2 for picture in self.pictures)
        kept = f"; smaller pictures, which are not enlarged: {small}" if small else ""
        return f"buckets of up to {self.resolution}x{self.resolution} pixels: {', '.join([*named, *more])}{kept}"


def fit_bucket(picture: TrainingPicture, resolution: int, multiple: int) -> Size:
    """Return the size of a picture's bucket: its own aspect, at most `resolution**2` pixels, never larger than it is.

    Sides are rounded down to `multiple`, which leaves few different sizes; the rest is cropped.

    Raises:
        PictureError: a side would be shorter than `multiple`.
    """
    width, height = picture.width, picture.height
    area = min(resolution**2, width * height)
    # sides of that area and the picture's aspect: w'^2 = area w / h
    size = tuple(isqrt(area * a // b) // multiple * multiple for a, b in ((width, height), (height, width)))
    if min(size) < multiple:
        raise PictureError(
            f"{picture.path.name!r} has {width} x {height} pixels, a bucket needs {multiple} on each side",
            hint="leave it out, or train without --buckets",
        )
    return size[0], size[1]


def make_buckets(pictures: Sequence[TrainingPicture], resolution: int, multiple: int, *, enabled: bool) -> Buckets:
    """Return the size of each picture: that of its bucket, or the square of the resolution for all."""
    square = (resolution, resolution)
    return Buckets(
        pictures,
        [fit_bucket(picture, resolution, multiple) if enabled else square for picture in pictures],
        resolution,
    )


def size_multiple(parts: Components) -> int:
    """Return what both sides of a picture must be divisible by: a cell of the U-Net's smallest feature map."""
    return parts.vae_scale * int(2 ** (len(parts.network.config.block_out_channels) - 1))
