"""Every random draw as a function of seed, step and place in the batch.

No generator lives longer than one sample, so there is no random state to keep: a resumed training draws what an
uninterrupted one would have drawn, and several processes draw together what one would have drawn alone.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Generator

Purpose = Literal["order", "sample", "sheet"]
_PURPOSES: tuple[Purpose, ...] = ("order", "sample", "sheet")


def generator(seed: int, purpose: Purpose, *place: int) -> Generator:
    """Return a fresh CPU generator for one purpose and place."""
    words = np.random.SeedSequence((seed, _PURPOSES.index(purpose), *place)).generate_state(2, np.uint32)
    return Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def order(seed: int, epoch: int, pictures: int) -> list[int]:
    """Return the order in which an epoch goes through the pictures."""
    shuffled: list[int] = torch.randperm(pictures, generator=generator(seed, "order", epoch)).tolist()
    return shuffled


def members(seed: int, step: int, batch: int, pictures: int) -> list[int]:
    """Return which pictures make up the batch of a step; every picture comes once an epoch."""
    places = range(step * batch, (step + 1) * batch)
    epochs = {place // pictures: order(seed, place // pictures, pictures) for place in places}
    return [epochs[place // pictures][place % pictures] for place in places]
