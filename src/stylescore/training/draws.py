"""Random draws that follow from seed, step and position in the batch.

No generator lives longer than one sample, so a saved state needs none: a resumed training draws the same numbers as an
uninterrupted one, and several processes draw the same as a single one.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator

Purpose = Literal["order", "sample", "sheet", "pair", "crop", "noise", "score", "fake", "measure", "hold"]
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
"""Their places give the draws: a new one belongs at the end."""


def make_seed(seed: int, purpose: Purpose, *position: int) -> int:
    """Return the seed of a generator for one purpose and position, below 2^63."""
    halves = np.random.SeedSequence((seed, _PURPOSES.index(purpose), *position)).generate_state(2, np.uint32)
    return int(halves[0]) << 31 ^ int(halves[1])


def make_generator(seed: int, purpose: Purpose, *position: int) -> Generator:
    """Return a fresh CPU generator for one purpose and position."""
    return Generator().manual_seed(make_seed(seed, purpose, *position))


def shuffle(seed: int, purpose: Purpose, epoch: int, count: int) -> list[int]:
    """Return the numbers below `count` in a random order."""
    shuffled: list[int] = torch.randperm(count, generator=make_generator(seed, purpose, epoch)).tolist()
    return shuffled


def batch_members(seed: int, step: int, batch: int, pictures: int) -> list[int]:
    """Return the numbers of the pictures in the batch of a step; every picture is used once in each epoch."""
    positions = range(step * batch, (step + 1) * batch)
    epochs = {position // pictures: shuffle(seed, "order", position // pictures, pictures) for position in positions}
    return [epochs[position // pictures][position % pictures] for position in positions]
