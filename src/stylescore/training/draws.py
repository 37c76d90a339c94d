"""Random draws that follow from seed, step and position in the batch.

No generator lives longer than one sample, so a saved state needs none: a resumed training draws the same numbers as an
uninterrupted one, and several processes draw the same as a single one.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Generator

Purpose = Literal["order", "sample", "sheet"]
_PURPOSES: tuple[Purpose, ...] = ("order", "sample", "sheet")


def make_generator(seed: int, purpose: Purpose, *position: int) -> Generator:
    """Return a fresh CPU generator for one purpose and position."""
    halves = np.random.SeedSequence((seed, _PURPOSES.index(purpose), *position)).generate_state(2, np.uint32)
    return Generator().manual_seed(int(halves[0]) << 31 ^ int(halves[1]))


def _shuffle(seed: int, epoch: int, pictures: int) -> list[int]:
    """Return the order of the pictures in an epoch."""
    shuffled: list[int] = torch.randperm(pictures, generator=make_generator(seed, "order", epoch)).tolist()
    return shuffled


def batch_members(seed: int, step: int, batch: int, pictures: int) -> list[int]:
    """Return the numbers of the pictures in the batch of a step; every picture is used once in each epoch."""
    positions = range(step * batch, (step + 1) * batch)
    epochs = {position // pictures: _shuffle(seed, position // pictures, pictures) for position in positions}
    return [epochs[position // pictures][position % pictures] for position in positions]
