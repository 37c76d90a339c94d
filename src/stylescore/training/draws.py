"""Random draws that follow from seed, step and position in the batch.

No generator lives longer than one sample, so a saved state needs none: a resumed training draws the same numbers as an
uninterrupted one, and several processes draw the same as a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Generator

Purpose = Literal[
    "order",
    "sample",
    "sheet",
    "pair",
    "crop",
    "noise",
    "score",
    "fake",
    "measure",
    "hold",
    "group",
    "stability",
    "critic",
]
_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
"""Their places give the draws: a new one belongs at the end."""


def make_seed(seed: int, purpose: Purpose, *position: int) -> int:
    """Return the seed of a generator for one purpose and position, below 2^63."""
    halves = np.random.SeedSequence((seed, _PURPOSES.index(purpose), *position)).generate_state(2, np.uint32)
    return int(halves[0]) << 31 ^ int(halves[1])


def make_generator(seed: int, purpose: Purpose, *position: int) -> Generator:
    """Return a fresh CPU generator for one purpose and position."""
    return Generator().manual_seed(make_seed(seed, purpose, *position))


def shuffle(seed: int, purpose: Purpose, count: int, *position: int) -> list[int]:
    """Return the numbers below `count` in a random order."""
    shuffled: list[int] = torch.randperm(count, generator=make_generator(seed, purpose, *position)).tolist()
    return shuffled


def batch_members(seed: int, step: int, batch: int, groups: Sequence[Sequence[int]]) -> list[int]:
    """Return the pictures in the batch of a step; all of them are of one group.

    A group is used in random order, every entry once in each of its epochs. In a cycle, each group has as many turns as
    it has entries, so that all entries are used equally often: `batch` times in a cycle.

    Args:
        seed: of the training.
        step: 0-based.
        batch: pictures per step.
        groups: of numbers of pictures; a number may come several times.
    """
    number, turn = _find_turn(seed, step, [len(group) for group in groups])
    group = groups[number]
    epochs = {epoch: _order(seed, epoch, number, len(group)) for epoch in _epochs(turn, batch, len(group))}
    positions = range(turn * batch, (turn + 1) * batch)
    return [group[epochs[position // len(group)][position % len(group)]] for position in positions]


def _epochs(turn: int, batch: int, entries: int) -> range:
    """Return the epochs of a group that the batch of a turn touches."""
    return range(turn * batch // entries, ((turn + 1) * batch - 1) // entries + 1)


def _find_turn(seed: int, step: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Return which group a step uses, and how many steps have used it before."""
    if len(lengths) == 1:
        return 0, step
    cycle, place = divmod(step, sum(lengths))
    turns = [number for number, length in enumerate(lengths) for _ in range(length)]
    order = shuffle(seed, "group", len(turns), cycle)
    number = turns[order[place]]
    return number, cycle * lengths[number] + sum(turns[index] == number for index in order[:place])


def _order(seed: int, epoch: int, group: int, entries: int) -> list[int]:
    """Return the order of a group's entries in one of its epochs."""
    return shuffle(seed, "order", entries, *((epoch, group) if group else (epoch,)))
