"""Splits a large picture into overlapping tiles, so that the network's result is that of the whole picture.

Each tile is computed with the context that its network looks at, so the tiles agree where they overlap; there they are
blended, which hides the difference of networks whose layers see the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLEND = 32
"""Pixels over which one tile fades into the next."""
FAINTEST = 1e-3
"""Weight of the outermost pixels under a raised cosine."""

Rise = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From pixels inside a span's end to weights."""


@dataclass(frozen=True)
class Span:
    """One tile's part of an axis.

    Attributes:
        start: first pixel that is computed, a multiple of the network's.
        stop: the pixel after the last.
        weight: of each pixel in the blend, [stop - start]; the weights of all spans add up to 1 everywhere.
    """

    start: int
    stop: int
    weight: NDArray[np.float32]


def split_axis(length: int, side: int, context: int, multiple: int) -> list[Span]:
    """Split an axis into spans of the same length, whose overlap is at least twice the context and the blend.

    Args:
        length: pixels of the axis.
        side: largest length of a span, more than the overlap.
        context: pixels at each inner end of a span that have weight 0.
        multiple: spans begin at multiples of it.

    Returns:
        One span of the whole axis if it fits, else as few as possible and no longer than needed, the last of which ends
        with the axis.
    """
    if length <= side:
        return [Span(0, length, np.ones(length, np.float32))]
    overlap = 2 * context + BLEND + multiple  # rounding to multiples may widen a step by less than one of them
    count = _count(length, side, overlap, multiple)
    side = min(side, _needed_side(length, count, overlap, multiple))
    starts = _starts(length, side, count, multiple)
    return _spans(length, side, starts, lambda inside: np.clip((inside - context) / BLEND, 0, 1))


def split_evenly(length: int, side: int, overlap: int, multiple: int) -> list[Span]:
    """Split an axis as the diffusion model's own tiles do, which fade into one another by raised cosines.

    Args:
        length: pixels of the axis.
        side: length of a span, a multiple of `multiple`, more than twice the overlap.
        overlap: pixels that a span shares with the next one at least, over which it fades.
        multiple: spans begin at multiples of it, evenly spaced.

    Returns:
        One span of the whole axis if it fits, else as few as possible, the last of which ends with the axis.
    """
    if length <= side:
        return [Span(0, length, np.ones(length, np.float32))]
    last = math.ceil(length / multiple) - side // multiple  # cells before the last span
    count = math.ceil(last * multiple / (side - overlap))
    starts = [round(index * last / count) * multiple for index in range(count + 1)]
    return _spans(length, side, starts, lambda inside: _raised_cosine(inside / overlap))


def _raised_cosine(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rise from 0 at 0 to 1 at 1, but a little above 0, so that it can be divided by."""
    return np.maximum(0.5 - 0.5 * np.cos(np.pi * np.clip(position, 0, 1)), FAINTEST)


def _spans(length: int, side: int, starts: list[int], rise: Rise) -> list[Span]:
    """Return spans that begin at `starts`, their weights divided by the sum of all."""
    stops = [min(start + side, length) for start in starts]
    raw = [_weight(start, stop, length, rise) for start, stop in zip(starts, stops, strict=True)]
    total = np.zeros(length)
    for start, stop, weight in zip(starts, stops, raw, strict=True):
        total[start:stop] += weight
    return [
        Span(start, stop, (weight / total[start:stop]).astype(np.float32))
        for start, stop, weight in zip(starts, stops, raw, strict=True)
    ]


def _count(length: int, side: int, overlap: int, multiple: int) -> int:
    """Return how many spans of at most `side` pixels an axis needs."""
    return math.ceil(_last_start(length, side, multiple) / (side - overlap)) + 1


def _needed_side(length: int, count: int, overlap: int, multiple: int) -> int:
    """Return the length of spans that is enough for so many to cover an axis, a multiple of `multiple`."""
    return math.ceil((length + multiple + (count - 1) * overlap) / count / multiple) * multiple


def _last_start(length: int, side: int, multiple: int) -> int:
    return math.ceil((length - side) / multiple) * multiple


def _starts(length: int, side: int, count: int, multiple: int) -> list[int]:
    """Return evenly distributed first pixels, of which the last leaves no pixel out."""
    last = _last_start(length, side, multiple)
    return [math.floor(last * index / (count - 1) / multiple + 0.5) * multiple for index in range(count)]


def _weight(start: int, stop: int, length: int, rise: Rise) -> NDArray[np.float64]:
    """Return weights of a span's pixels that rise from its inner ends."""
    inside = np.linspace(0.5, stop - start - 0.5, stop - start, dtype=np.float64)
    weight = np.ones(stop - start)
    if start > 0:
        weight = np.minimum(weight, rise(inside))
    if stop < length:
        weight = np.minimum(weight, rise(inside[::-1]))
    return weight


def smallest_side(context: int, multiple: int) -> int:
    """Return the smallest side of tiles that advance by at least a blend's width each."""
    return -(-(2 * context + 2 * BLEND + 2 * multiple) // multiple) * multiple


def largest_side(pixels: int, context: int, multiple: int) -> int:
    """Return the side of square tiles of at most so many pixels, a multiple of `multiple`."""
    side = math.isqrt(max(pixels, 0)) // multiple * multiple
    return max(side, smallest_side(context, multiple))


def tiles(height: int, width: int, split: Callable[[int], list[Span]]) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of every tile, both axes split in the same way."""
    columns = split(width)
    for row in split(height):
        yield from ((row, column) for column in columns)
