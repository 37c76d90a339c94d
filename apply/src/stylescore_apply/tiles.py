"""Splits a large picture into overlapping tiles, so that the network's result is that of the whole picture.

Each tile is computed with the context that its network looks at, so the tiles agree where they overlap; there they are
blended, which hides the difference of networks whose layers see the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLEND = 32
"""Pixels over which one tile fades into the next."""


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


def split_axis(length: int, side: int, context: int, multiple: int, blend: int = BLEND) -> list[Span]:
    """Split an axis into spans of the same length, whose overlap is at least twice the context and the blend.

    Args:
        length: pixels of the axis.
        side: largest length of a span, more than the overlap.
        context: pixels at each inner end of a span that have weight 0.
        multiple: spans begin at multiples of it.
        blend: pixels over which one span fades into the next.

    Returns:
        One span of the whole axis if it fits, else as few as possible and no longer than needed, the last of which ends
        with the axis.
    """
    if length <= side:
        return [Span(0, length, np.ones(length, np.float32))]
    overlap = 2 * context + blend + multiple  # rounding to multiples may widen a step by less than one of them
    count = _count(length, side, overlap, multiple)
    side = min(side, _needed_side(length, count, overlap, multiple))
    starts = _starts(length, side, count, multiple)
    stops = [min(start + side, length) for start in starts]
    raw = [_ramp(start, stop, length, context, blend) for start, stop in zip(starts, stops, strict=True)]
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


def _ramp(start: int, stop: int, length: int, context: int, blend: int) -> NDArray[np.float64]:
    """Return weights that are 0 in the context at inner ends, and rise linearly over the blend."""
    positions = np.arange(start, stop)
    rise = np.ones(stop - start)
    if start > 0:
        rise = np.minimum(rise, (positions - start - context + 0.5) / blend)
    if stop < length:
        rise = np.minimum(rise, (stop - positions - context - 0.5) / blend)
    return np.clip(rise, 0, 1)


def smallest_side(context: int, multiple: int, blend: int = BLEND) -> int:
    """Return the smallest side of tiles that advance by at least a blend's width each."""
    return -(-(2 * context + 2 * blend + 2 * multiple) // multiple) * multiple


def largest_side(pixels: int, context: int, multiple: int, blend: int = BLEND) -> int:
    """Return the side of square tiles of at most so many pixels, a multiple of `multiple`."""
    side = math.isqrt(max(pixels, 0)) // multiple * multiple
    return max(side, smallest_side(context, multiple, blend))


def tiles(
    height: int, width: int, side: int, context: int, multiple: int, blend: int = BLEND
) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of every tile."""
    columns = split_axis(width, side, context, multiple, blend)
    for row in split_axis(height, side, context, multiple, blend):
        yield from ((row, column) for column in columns)
