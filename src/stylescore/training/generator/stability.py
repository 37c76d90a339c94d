"""Steadiness in video: a photo that has moved a little should give the picture that has moved with it.

"Real-Time Neural Style Transfer for Videos", CVPR 2017, trains a network on neighbouring frames of a film and their
optical flow; here one photo, moved by a known distance and with fresh noise of a camera, is both frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stylescore.method.objective import gaussian
from stylescore.method.types import PerSample, Rng
from stylescore.training.generator.batches import Batch

REACH = 8
"""Largest shift in pixels along each side: the side of a cell, so that every position in a cell is met."""
GRAIN = 0.02
"""Standard deviation of the noise on the moved photo, in parts of its range; a camera has about as much."""

Shifts = Sequence[tuple[int, int]]
"""Pixels that each sample moves down and to the right."""


def disturb(batch: Batch, rng: Rng) -> tuple[Batch, Shifts]:
    """Return a batch whose photos are shifted and noised, under the same noise of the generator, and the shifts.

    What leaves a photo on one side comes back on the other, see `instability`.

    Args:
        batch: of photos.
        rng: one generator for each sample.
    """
    shifts = [_draw_shift(generator) for generator in rng]
    moved = (_move(batch.photo, shifts) + GRAIN * gaussian(batch.photo, rng)).clamp(0, 1)
    return replace(batch, photo=moved), shifts


def instability(pictures: Tensor, disturbed: Tensor, shifts: Shifts) -> PerSample:
    """Return the mean absolute difference of shifted pictures and the pictures of the shifted photos.

    A border of twice the largest shift is left out, where the photo came back from the other side.

    Args:
        pictures: of the photos, [batch, 3, h, w].
        disturbed: pictures of the shifted photos.
        shifts: as `disturb` returns them.
    """
    difference = (_move(pictures, shifts) - disturbed).abs()
    return difference[..., 2 * REACH : -2 * REACH, 2 * REACH : -2 * REACH].flatten(1).mean(dim=1)


def _draw_shift(rng: torch.Generator) -> tuple[int, int]:
    down, right = torch.randint(-REACH, REACH + 1, (2,), generator=rng).tolist()
    return down, right


def _move(pictures: Tensor, shifts: Shifts) -> Tensor:
    """Return each picture shifted by its own distance, around the edges."""
    return torch.stack([torch.roll(each, shift, dims=(-2, -1)) for each, shift in zip(pictures, shifts, strict=True)])
