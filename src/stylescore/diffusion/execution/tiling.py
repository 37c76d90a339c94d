"""Large pictures in overlapping tiles: each is processed alone, and the outputs are blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

OVERLAP = 0.25
"""Fraction of a tile's side that it shares with the next one, at least."""
FAINTEST = 1e-3
"""Weight of a tile's outermost cells; above zero, so that every sum of weights can be divided by."""


def tile_starts(length: int, side: int | None) -> list[int]:
    """Return where tiles of `side` cells begin that cover `length` cells evenly; one if they fit or have no side."""
    if side is None or length <= side:
        return [0]
    step = side - int(OVERLAP * side)
    last = math.ceil((length - side) / step)
    return [round(n * (length - side) / last) for n in range(last + 1)]


def tile_corners(height: int, width: int, side: int | None) -> list[tuple[int, int]]:
    """Return the upper left corners of all tiles of a canvas, in cells."""
    return [(top, left) for top in tile_starts(height, side) for left in tile_starts(width, side)]


def _ramp(length: int, fade: int, *, first: bool, last: bool) -> Tensor:
    """Return weights along one axis: a raised cosine at each end, except where the canvas ends too."""
    weights = torch.ones(length)
    rise = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(fade) + 0.5) / fade)
    if not first:
        weights[:fade] = rise
    if not last:
        weights[length - fade :] = rise.flip(0)
    return weights.clamp(min=FAINTEST)


def blend_tiles(
    compute: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    side: int | None,
    cell_in: int = 1,
    cell_out: int = 1,
    per_call: int = 1,
) -> Tensor:
    """Return `compute(x)`, tile by tile.

    Tiles are weighted by a raised cosine over their overlap, and the weights sum to one everywhere: where all tiles
    agree, they cannot be seen. With gradient, a tile's activations are recomputed in the backward pass, so that memory
    does not grow with the picture.

    Args:
        compute: makes an output of tiles, e.g. noise predictions; it receives [batch n, c, h, w], where the n tiles of
            a sample follow one another.
        x: [batch, c, cell_in h, cell_in w] for a canvas of h x w cells.
        side: of a tile, in cells; a canvas that fits one is processed whole, and so is any where it is `None`.
        cell_in: pixels of x that a cell spans on each axis.
        cell_out: pixels of the output that a cell spans on each axis.
        per_call: how many tiles are processed in one call, at most.
    """
    height, width = x.shape[-2] // cell_in, x.shape[-1] // cell_in
    if side is None or max(height, width) <= side:
        return compute(x)
    tall, wide = min(side, height), min(side, width)
    fade = max(1, int(OVERLAP * side)) * cell_out
    total: Tensor | None = None
    weights = torch.zeros(height * cell_out, width * cell_out, device=x.device)
    for corners in tile_groups(tile_corners(height, width, side), per_call):
        parts = [
            x[..., top * cell_in :, left * cell_in :][..., : tall * cell_in, : wide * cell_in] for top, left in corners
        ]
        # [batch, c, h, w] each -> [batch n, c, h, w] and back to [batch, n, c, h, w]
        output = _checkpointed(compute, torch.stack(parts, dim=1).flatten(0, 1))
        pieces = output.reshape(len(x), len(corners), *output.shape[1:])
        if total is None:
            total = pieces.new_zeros(*pieces.shape[:1], *pieces.shape[2:-2], *weights.shape)
        for (top, left), piece in zip(corners, pieces.unbind(1), strict=True):
            down = _ramp(tall * cell_out, fade, first=top == 0, last=top + tall == height)
            across = _ramp(wide * cell_out, fade, first=left == 0, last=left + wide == width)
            weight = torch.outer(down, across).to(x.device)
            place = (
                ...,
                slice(top * cell_out, (top + tall) * cell_out),
                slice(left * cell_out, (left + wide) * cell_out),
            )
            total[place] += piece * weight
            weights[place] += weight
    assert total is not None
    return total / weights


def tile_groups(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield tiles in order, at most `size` at a time, in groups whose sizes differ by at most one."""
    count = math.ceil(len(corners) / size)
    for n in range(count):
        yield corners[n * len(corners) // count : (n + 1) * len(corners) // count]


def _checkpointed(compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `compute(x)`; with gradient its activations are recomputed in the backward pass."""
    return checkpoint(compute, x, use_reentrant=False) if torch.is_grad_enabled() else compute(x)
