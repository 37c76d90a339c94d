"""Timestep samplers: `(progress, rng) -> t`, one timestep per generator.

The grid is t = stride k + 1, k = 0, 1, .... All ranges are inclusive and given as timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from stylescore.method.types import Rng, Timesteps


class TimestepSampler(Protocol):
    """Draws the timesteps of a step from how far the run has come, `progress` in [0, 1)."""

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Return one timestep per generator in `rng`, shape [batch], int64, on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Timesteps t = stride k + 1 within [t_min, t_max]."""

    t_min: int
    t_max: int
    stride: int = 2

    @property
    def low(self) -> int:
        """The first index k on the grid."""
        return math.ceil((self.t_min - 1) / self.stride)

    @property
    def high(self) -> int:
        """One past the last index k on the grid."""
        return (self.t_max - 1) // self.stride + 1

    def at(self, k: int) -> int:
        """Return the timestep of index k."""
        return self.stride * k + 1

    def uniform(self, high: int, rng: Rng) -> Timesteps:
        """Draw one index in [low, high) per generator and return the timesteps."""
        draws = [torch.randint(self.low, high, (), generator=generator).item() for generator in rng]
        return torch.tensor([self.at(int(k)) for k in draws])


@dataclass(frozen=True)
class Uniform:
    """t ~ U{t_min .. t_max} throughout (the paper's ablation "random t"; the fake score's own range)."""

    grid: Grid

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Draw; `progress` does not matter."""
        del progress
        return self.grid.uniform(self.grid.high, rng)


@dataclass(frozen=True)
class Narrowing:
    """t ~ U{t_min .. (1 - progress) t_max}, the paper's sampler (METHOD, "Timestep samplers").

    The upper index is max(floor(high (1 - progress)), low + 1), so that one timestep always remains.
    """

    grid: Grid

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Draw from the part of the range that is still open."""
        return self.grid.uniform(self.high(progress), rng)

    def high(self, progress: float) -> int:
        """Return one past the last index that may be drawn."""
        return max(math.floor(self.grid.high * (1 - progress)), self.grid.low + 1)


@dataclass(frozen=True)
class Staged:
    """One sampler for the first part of a run, another for the rest; each counts its own progress.

    Attributes:
        first: until `share` of the run is over.
        second: from then on.
        share: in (0, 1).
    """

    first: TimestepSampler
    second: TimestepSampler
    share: float

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Ask the sampler whose turn it is."""
        if progress < self.share:
            return self.first(progress / self.share, rng)
        return self.second((progress - self.share) / (1 - self.share), rng)


@dataclass(frozen=True)
class Annealed:
    """t falls linearly from t_max to t_min, without chance (the paper's ablation "linear annealing")."""

    grid: Grid

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Return the same timestep for every sample."""
        span = self.grid.high - 1 - self.grid.low
        k = self.grid.low + round(span * (1 - progress))
        return torch.full((len(rng),), self.grid.at(k))
