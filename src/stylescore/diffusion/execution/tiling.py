"""Large pictures in overlapping windows: each is worked on alone, and the answers are blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

OVERLAP = 0.25
"""Share of a window's side that it has in common with the next one, at least."""
FAINTEST = 1e-3
"""Weight of a window's outermost cells; above zero, so that every sum of weights can be divided by."""


def starts(length: int, side: int | None) -> list[int]:
    """Return where windows of `side` cells begin that cover `length` cells evenly; one if they fit or have no side."""
    if side is None or length <= side:
        return [0]
    step = side - int(OVERLAP * side)
    last = math.ceil((length - side) / step)
    return [round(n * (length - side) / last) for n in range(last + 1)]


def windows(height: int, width: int, side: int | None) -> list[tuple[int, int]]:
    """Return the upper left corners of all windows of a canvas, in cells."""
    return [(top, left) for top in starts(height, side) for left in starts(width, side)]


def ramp(length: int, fade: int, *, first: bool, last: bool) -> Tensor:
    """Return weights along one axis: a raised cosine at each end, except where the canvas ends too."""
    weights = torch.ones(length)
    rise = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(fade) + 0.5) / fade)
    if not first:
        weights[:fade] = rise
    if not last:
        weights[length - fade :] = rise.flip(0)
    return weights.clamp(min=FAINTEST)


def blended(
    work: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    side: int | None,
    taken: int = 1,
    given: int = 1,
    at_once: int = 1,
) -> Tensor:
    """Return what `work` makes of x, window by window.

    Windows are weighted by a raised cosine over what they share, and the weights sum to one everywhere: where all
    windows agree, nothing of them is seen. With gradient, a window's inner results are dropped and made again on the
    way back, so that memory does not grow with the picture.

    Args:
        work: makes an output of windows, e.g. noise predictions; it is given [batch n, c, h, w], where the n windows of
            a row stand one after another.
        x: [batch, c, taken h, taken w] for a canvas of h x w cells.
        side: of a window, in cells; a canvas that fits one is worked on whole, and so is any where it is `None`.
        taken: pixels of x that a cell spans on each axis.
        given: pixels of the output that a cell spans on each axis.
        at_once: how many windows are worked on together, at most.
    """
    height, width = x.shape[-2] // taken, x.shape[-1] // taken
    if side is None or max(height, width) <= side:
        return work(x)
    tall, wide = min(side, height), min(side, width)
    fade = max(1, int(OVERLAP * side)) * given
    total: Tensor | None = None
    weights = torch.zeros(height * given, width * given, device=x.device)
    for corners in groups(windows(height, width, side), at_once):
        parts = [x[..., top * taken :, left * taken :][..., : tall * taken, : wide * taken] for top, left in corners]
        made = dropped(work, torch.stack(parts, dim=1).flatten(0, 1))
        pieces = made.reshape(len(x), len(corners), *made.shape[1:])
        if total is None:
            total = pieces.new_zeros(*pieces.shape[:1], *pieces.shape[2:-2], *weights.shape)
        for (top, left), piece in zip(corners, pieces.unbind(1), strict=True):
            down = ramp(tall * given, fade, first=top == 0, last=top + tall == height)
            across = ramp(wide * given, fade, first=left == 0, last=left + wide == width)
            weight = torch.outer(down, across).to(x.device)
            place = (..., slice(top * given, (top + tall) * given), slice(left * given, (left + wide) * given))
            total[place] += piece * weight
            weights[place] += weight
    assert total is not None
    return total / weights


def groups(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield windows in order, so many at a time at most, in groups that differ by one at most."""
    count = math.ceil(len(corners) / size)
    for n in range(count):
        yield corners[n * len(corners) // count : (n + 1) * len(corners) // count]


def dropped(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what `work` makes of x; with gradient its inner results are made again on the way back."""
    return checkpoint(work, x, use_reentrant=False) if torch.is_grad_enabled() else work(x)
