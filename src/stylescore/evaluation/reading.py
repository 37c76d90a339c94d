"""Reads pictures as the networks compare them: at most a certain size, both of a pair of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylescore.errors import PictureError
from stylescore.evaluation.pairs import Pair
from stylescore.images import read_photo, to_tensor
from stylescore.images.sheets import flatten_alpha

MOST_DIFFERENT_ASPECT = 1.05
"""Largest ratio of the two aspect ratios of a pair; more is another crop."""

Picture = Float[Tensor, "1 3 _height _width"]
Pictures = Float[Tensor, "batch 3 _height _width"]


def comparison_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Return width and height with a short side of at most `short_side`; 0 leaves the size as it is."""
    short = min(size)
    if short_side == 0 or short <= short_side:
        return size
    width, height = (max(1, round(side * short_side / short)) for side in size)
    return width, height


def read_picture(path: Path) -> Image.Image:
    """Read a picture upright in sRGB, on white where it is transparent."""
    photo = read_photo(path)
    if photo.alpha is None:
        return photo.picture
    return flatten_alpha(Image.merge("RGBA", (*photo.picture.split(), photo.alpha)))


def read_pair(pair: Pair, short_side: int) -> tuple[Picture, Picture]:
    """Return photo and result in [-1, 1], both at the comparison size of the result.

    Raises:
        PictureError: one cannot be read, or they have another shape: one of them was cropped.
    """
    source, stylized = read_picture(pair.source), read_picture(pair.stylized)
    ratio = (source.width * stylized.height) / (source.height * stylized.width)
    if max(ratio, 1 / ratio) > MOST_DIFFERENT_ASPECT:
        raise PictureError(
            f"{pair.stylized.name!r} is {stylized.width} x {stylized.height} and its photo {pair.source.name!r} "
            f"{source.width} x {source.height}: one of them was cropped",
            hint="compare pictures that show the same part",
        )
    size = comparison_size(stylized.size, short_side)
    return to_tensor(source, size), to_tensor(stylized, size)


def read_style(path: Path, short_side: int) -> Picture:
    """Return a picture of the style in [-1, 1]."""
    picture = read_picture(path)
    return to_tensor(picture, comparison_size(picture.size, short_side))


def in_batches(pictures: Iterator[tuple[Picture, ...]], most: int) -> Iterator[tuple[Pictures, ...]]:
    """Group neighbours of one size into batches of at most `most`, in order."""
    for _, group in groupby(pictures, key=lambda entry: entry[0].shape):
        batch: list[tuple[Picture, ...]] = []
        for entry in group:
            batch.append(entry)
            if len(batch) == most:
                yield _stack(batch)
                batch = []
        if batch:
            yield _stack(batch)


def _stack(batch: Sequence[tuple[Picture, ...]]) -> tuple[Pictures, ...]:
    return tuple(torch.cat(parts) for parts in zip(*batch, strict=True))
