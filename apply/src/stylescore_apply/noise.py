"""The noise of a network: one standard normal field over the whole picture, a function of seed and position alone.

A cell's value does not depend on the picture's size or on the order of computation, so a tile's noise is that of the
whole picture, all frames of a video share one field, and other programs can draw the same field from the same seed.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Noise = NDArray[np.float32]
"""[1, channels, rows, columns]"""

LARGEST_SEED = 2**32 - 1
_START = np.uint32(0x9E3779B9)
"""Without it the first cell of seed 0 would be the hash of 0, which is 0."""
_SECOND_DRAW = np.uint32(0x85EBCA6B)
_CACHED_FIELDS = 2


@lru_cache(maxsize=_CACHED_FIELDS)
def noise_field(seed: int, channels: int, rows: tuple[int, int], columns: tuple[int, int]) -> Noise:
    """Return a window of the noise field of a seed; it must not be changed, as it is cached.

    Each cell hashes its seed, channel, row and column to two uniform numbers, of which the Box-Muller transform makes a
    normal one.

    Args:
        seed: 0 to 2^32 - 1.
        channels: number of channels.
        rows: first row and the one after the last, in cells.
        columns: the same for columns.

    Returns:
        [1, channels, rows, columns], mean 0 and variance 1.
    """
    field = noise_at(seed, channels, np.arange(*rows)[:, None], np.arange(*columns)[None, :])
    field.flags.writeable = False
    return field


def noise_at(seed: int, channels: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Noise:
    """Return the values of a seed's noise field at any cells; the field is endless on all sides.

    Args:
        seed: 0 to 2^32 - 1.
        channels: number of channels.
        rows: of the cells, [rows, columns] or what broadcasts to it.
        columns: likewise.

    Returns:
        [1, channels, rows, columns].
    """
    channel = np.arange(channels, dtype=np.uint32)[:, None, None]
    row, column = (place.astype(np.uint32)[None] for place in (rows, columns))
    key = hash32(hash32(hash32(hash32(np.uint32(seed) ^ _START) + channel) + row) + column)
    radius = np.sqrt(-2 * np.log(_to_unit(hash32(key))))
    field: Noise = (radius * np.cos(2 * np.pi * _to_unit(hash32(key ^ _SECOND_DRAW))))[None].astype("f4")
    return field


def hash32(value: NDArray[np.uint32] | np.uint32) -> NDArray[np.uint32]:
    """Hash numbers of 32 bits to numbers of 32 bits, one to one.

    Source: Chris Wellons, "Prospecting for Hash Functions", 2018, the function lowbias32.
    """
    x = np.atleast_1d(np.asarray(value, dtype=np.uint32))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _to_unit(value: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map numbers of 32 bits into the open interval from 0 to 1."""
    return (value.astype(np.float64) + 0.5) / 2.0**32
