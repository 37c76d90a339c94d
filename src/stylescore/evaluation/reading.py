"""Reads pictures as the networks compare them: at most a certain size, both of a pair of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

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
T = TypeVar("T")


@dataclass(frozen=True)
class Stylized:
    """A stylized picture as it is compared.

    Attributes:
        pair: it and its photo.
        size: its own width and height.
        picture: in [-1, 1], at the comparison size.
    """

    pair: Pair
    size: tuple[int, int]
    picture: Picture


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


def read_stylized(pair: Pair, short_side: int) -> Stylized:
    """Read the stylized picture of a pair.

    Raises:
        PictureError: it cannot be read.
    """
    picture = read_picture(pair.stylized)
    return Stylized(pair, picture.size, to_tensor(picture, comparison_size(picture.size, short_side)))


def read_source(result: Stylized) -> Picture:
    """Return the photo of a result in [-1, 1], at the comparison size of the result.

    Raises:
        PictureError: it cannot be read, or has another shape: one of them was cropped.
    """
    source, (width, height) = read_picture(result.pair.source), result.size
    ratio = (source.width * height) / (source.height * width)
    if max(ratio, 1 / ratio) > MOST_DIFFERENT_ASPECT:
        raise PictureError(
            f"{result.pair.stylized.name!r} is {width} x {height} and its photo {result.pair.source.name!r} "
            f"{source.width} x {source.height}: one of them was cropped",
            hint="compare pictures that show the same part",
        )
    return to_tensor(source, (result.picture.shape[3], result.picture.shape[2]))


def read_style(path: Path, short_side: int) -> Picture:
    """Return a picture of the style in [-1, 1]."""
    picture = read_picture(path)
    return to_tensor(picture, comparison_size(picture.size, short_side))


def in_batches(entries: Iterable[T], most: int, key: Callable[[T], object]) -> Iterator[list[T]]:
    """Group neighbours with one key, such as their size, into batches of at most `most`, in order."""
    for _, group in groupby(entries, key=key):
        batch: list[T] = []
        for entry in group:
            batch.append(entry)
            if len(batch) == most:
                yield batch
                batch = []
        if batch:
            yield batch
