"""Stylizes one picture: whole if its activations fit into the memory limit, else in tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from stylescore_apply.errors import ConfigError, quote
from stylescore_apply.networks import CONTEXT_IF_UNKNOWN, MOST_PASSES, Array, Facts, Network, TileRule
from stylescore_apply.noise import LARGEST_SEED, Noise, noise_field
from stylescore_apply.tiles import Span, largest_side, split_axis, split_evenly, tiles

Pixels = NDArray[np.uint8]
"""[height, width, 3], sRGB"""

DEFAULT_LIMIT = 1024
SMALLEST_LIMIT = 64
LARGEST_LIMIT = 2**20
OVERHEAD = 2.5
"""Memory that onnxruntime takes for each byte of activations, measured: it pads channels and keeps freed parts."""
_BAND = 64
"""Rows that are rounded at a time."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures are stylized.

    Attributes:
        seed: of the noise field, 0 to 2^32 - 1.
        strength: 0 to 1, weight of the picture where it is mixed with the photo; `None` takes what the network's file
            states, see `Application`.
        passes: 1 to 8, how often the network is applied, each time to its own last picture: more passes are more style
            and less photo; `None` takes what the network's file states.
        memory_limit: MiB that the network's activations may take; larger pictures are computed in tiles.
    """

    seed: int = 0
    strength: float | None = None
    passes: int | None = None
    memory_limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a number is out of range.
        """
        _check("seed", self.seed, 0, LARGEST_SEED)
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise ConfigError(f"strength must be between 0 and 1, not {self.strength}", hint="change --strength")
        if self.passes is not None:
            _check("passes", self.passes, 1, MOST_PASSES)
        _check("memory_limit", self.memory_limit, SMALLEST_LIMIT, LARGEST_LIMIT)


def _check(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"{name} must be a whole number between {low} and {high}, not {quote(value)}", hint=f"change {option}"
        )


@dataclass(frozen=True)
class Application:
    """How often a network is applied, and how much of its picture is taken.

    Attributes:
        passes: each on the last one's picture.
        strength: weight of the picture where it is mixed with the photo.
    """

    passes: int
    strength: float

    @classmethod
    def of(cls, facts: Facts, settings: Settings) -> Application:
        """Return what the settings say, and what the file states for what they leave open.

        The strength that a file states belongs to its passes: with passes of the caller's it is 1.
        """
        stated = facts.strength if settings.passes is None else 1.0
        return cls(
            passes=facts.passes if settings.passes is None else settings.passes,
            strength=stated if settings.strength is None else settings.strength,
        )


def stylize(network: Network, photo: Pixels, settings: Settings, noise: Noise | None = None) -> Pixels:
    """Return the picture of a photo, of the same size.

    Args:
        network: the network.
        photo: [height, width, 3].
        settings: how it is stylized.
        noise: of the whole photo, [1, channels, rows, columns]; `None` draws that of the seed. Not read for a network
            without noise.

    Raises:
        MemoryLimitError: there is not enough memory.
    """
    picture, how = photo, Application.of(network.facts, settings)
    for _ in range(how.passes):
        picture = _pass(network, picture, settings, noise)
    return picture if how.strength == 1 else _mix(photo, picture, how.strength)


def _pass(network: Network, photo: Pixels, settings: Settings, noise: Noise | None) -> Pixels:
    """Apply the network once, to a whole picture or in tiles."""
    height, width = photo.shape[:2]
    side = tile_side(network.facts, height, width, settings)
    if side is not None:
        return _stylize_tiles(network, photo, settings.seed, noise, side)
    return to_pixels(_compute(network, photo, settings.seed, noise, (0, height), (0, width))[0])


def _mix(photo: Pixels, picture: Pixels, strength: float) -> Pixels:
    """Return photo + strength * (picture - photo)."""
    mixed = photo + np.float32(strength) * (picture.astype(np.float32) - photo)
    return np.rint(mixed).astype(np.uint8)


def tile_side(facts: Facts, height: int, width: int, settings: Settings) -> int | None:
    """Return the side of the tiles a picture is computed in, or `None` if it is computed as a whole."""
    pixels, rule = int(settings.memory_limit * 2**20 / (OVERHEAD * facts.bytes_per_pixel)), facts.tiles
    if height * width <= (pixels if rule is None else min(pixels, rule.largest)):
        return None
    side = largest_side(pixels, _context(facts), facts.multiple) if rule is None else _ruled_side(pixels, facts, rule)
    return side if side < max(height, width) else None


def is_cut_for_memory(facts: Facts, height: int, width: int, settings: Settings) -> bool:
    """Return whether a picture of a network that sees all of it is another one with more memory."""
    free = replace(settings, memory_limit=LARGEST_LIMIT)
    return facts.context is None and tile_side(facts, height, width, settings) != tile_side(facts, height, width, free)


def to_pixels(picture: Array) -> Pixels:
    """Return [height, width, 3] in 0 to 255 for [3, height, width] in [0, 1]."""
    pixels = np.empty((*picture.shape[1:], 3), np.uint8)
    for top in range(0, len(pixels), _BAND):  # of a whole picture the copies would take half a gigabyte
        band = np.rint(np.clip(picture[:, top : top + _BAND], 0, 1) * np.float32(255))
        pixels[top : top + _BAND] = np.moveaxis(band, 0, -1)
    return pixels


def _context(facts: Facts) -> int:
    return CONTEXT_IF_UNKNOWN if facts.context is None else facts.context


def _ruled_side(pixels: int, facts: Facts, rule: TileRule) -> int:
    """Return the side of tiles by a network's own rule, smaller where memory allows fewer pixels."""
    return min(rule.side // facts.multiple * facts.multiple, largest_side(pixels, 0, facts.multiple))


def _split(facts: Facts, side: int, length: int) -> list[Span]:
    """Return the tiles' parts of an axis."""
    if facts.tiles is None:
        return split_axis(length, side, _context(facts), facts.multiple)
    return split_evenly(length, side, min(facts.tiles.overlap, side // 4), facts.multiple)


def _stylize_tiles(network: Network, photo: Pixels, seed: int, noise: Noise | None, side: int) -> Pixels:
    height, width = photo.shape[:2]
    blended = np.zeros((3, height, width), np.float32)
    for row, column in tiles(height, width, partial(_split, network.facts, side)):
        picture = _compute(network, photo, seed, noise, (row.start, row.stop), (column.start, column.stop))
        _add(blended, picture[0], row, column)
    return to_pixels(blended)


def _add(blended: Array, picture: Array, row: Span, column: Span) -> None:
    weighted = picture * row.weight[:, None] * column.weight
    blended[:, row.start : row.stop, column.start : column.stop] += weighted


def _compute(
    network: Network,
    photo: Pixels,
    seed: int,
    noise: Noise | None,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> Array:
    """Return the network's picture [1, 3, height, width] of a part of a photo."""
    part = photo[slice(*rows), slice(*columns)]
    values = np.moveaxis(part, -1, 0)[None].astype(np.float32) / np.float32(255)
    facts = network.facts
    if not facts.noise_channels:
        return network(values, None)
    cells = _cells(rows, facts), _cells(columns, facts)
    if noise is None:
        return network(values, noise_field(seed, facts.noise_channels, *cells))
    return network(values, np.ascontiguousarray(noise[..., slice(*cells[0]), slice(*cells[1])]))


def _cells(pixels: tuple[int, int], facts: Facts) -> tuple[int, int]:
    """Return first and end of the cells over some pixels, which begin with a cell."""
    start, stop = pixels
    return start // facts.noise_scale, -(-stop // facts.noise_scale)
