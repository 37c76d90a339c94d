"""Large pictures in overlapping windows: each is worked on alone, and the answers are blended."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
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


def blended(work: Callable[[Tensor], Tensor], x: Tensor, *, side: int | None, taken: int = 1, given: int = 1) -> Tensor:
    """Return what `work` makes of x, window by window.

    Windows are weighted by a raised cosine over what they share, and the weights sum to one everywhere: where all
    windows agree, nothing of them is seen. With gradient, a window's inner results are dropped and made again on the
    way back, so that memory does not grow with the picture.

    Args:
        work: makes an output of a window, e.g. a noise prediction.
        x: [batch, c, taken h, taken w] for a canvas of h x w cells.
        side: of a window, in cells; a canvas that fits one is worked on whole, and so is any where it is `None`.
        taken: pixels of x that a cell spans on each axis.
        given: pixels of the output that a cell spans on each axis.
    """
    height, width = x.shape[-2] // taken, x.shape[-1] // taken
    if side is None or max(height, width) <= side:
        return work(x)
    tall, wide = min(side, height), min(side, width)
    fade = max(1, int(OVERLAP * side)) * given
    total, weights = None, torch.zeros(1, 1, height * given, width * given, device=x.device)
    for top, left in windows(height, width, side):
        part = x[..., top * taken : (top + tall) * taken, left * taken : (left + wide) * taken]
        piece = checkpoint(work, part, use_reentrant=False) if torch.is_grad_enabled() else work(part)
        down = ramp(tall * given, fade, first=top == 0, last=top + tall == height)
        across = ramp(wide * given, fade, first=left == 0, last=left + wide == width)
        weight = torch.outer(down, across).to(x.device)
        around = [given * n for n in (left, width - left - wide, top, height - top - tall)]
        placed = F.pad(piece * weight, around)
        total = placed if total is None else total + placed
        weights = weights + F.pad(weight, around)
    assert total is not None
    return total / weights
