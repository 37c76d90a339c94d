"""How much of a figure is chance: bootstrap intervals, and a test of paired differences.

Sources: "An Introduction to the Bootstrap", 1993, chapters 6, 10 and 13; "The Design of Experiments", 1935, section 21.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

LEVEL = 0.95
MOST_EXACT = 12
"""Pairs up to which all flips of signs are tried, 4,096 of them."""
FLIPS = 10_000
"""Flips that are drawn for more pairs."""

Choice = Int[Tensor, " pictures"]
"""Indices of the pictures of one resample."""


@dataclass(frozen=True)
class Interval:
    """The interval that holds a figure with a probability of 95 %, for pictures drawn like these."""

    low: float
    high: float


def resample(count: int, rng: Generator) -> Choice:
    """Return as many indices as there are pictures, drawn with replacement."""
    return torch.randint(count, (count,), generator=rng)


def mean_interval(values: Float[Tensor, " pictures"], draws: int, rng: Generator) -> Interval:
    """Return the percentile interval of a mean; a single value has an interval of no width."""
    exact = values.double()
    means = torch.stack([exact[resample(len(exact), rng)].mean() for _ in range(draws)])
    low, high = _percentiles(means)
    return Interval(low, high)


def centred_interval(value: float, statistic: Callable[[Generator], float], draws: int, rng: Generator) -> Interval:
    """Return an interval of a statistic that resampling biases, such as a Frechet distance.

    A resample repeats pictures, so that its distances lie above those of fresh pictures. Only their spread about their
    own mean is used, laid around `value`; the interval says nothing about the bias of `value` itself.

    Args:
        value: the statistic of all pictures.
        statistic: draws a resample and returns its statistic.
        draws: number of resamples.
        rng: passed to `statistic`.
    """
    found = torch.tensor([statistic(rng) for _ in range(draws)], dtype=torch.float64)
    low, high = _percentiles(found - found.mean())
    return Interval(value + low, value + high)


def sign_flip_test(differences: Float[Tensor, " pairs"], rng: Generator) -> float:
    """Return the p-value of paired differences under the hypothesis that their signs are chance.

    It is the fraction of flips of signs whose mean is at least as far from 0 as the one that was found. Up to twelve
    pairs all flips are tried; from 13 on they are drawn, and the found one counts as one of them. With five pairs or
    fewer no value is below 0.05.

    Args:
        differences: of pairs, at least one.
        rng: of the drawn flips.
    """
    exact, count = differences.double(), len(differences)
    if count <= MOST_EXACT:
        bits = torch.arange(2**count).unsqueeze(1) >> torch.arange(count)
        extra = 0
    else:
        bits = torch.randint(2, (FLIPS, count), generator=rng)
        extra = 1
    sums = ((1 - 2 * (bits & 1)).double() @ exact).abs()
    rounding = 1e-12 * exact.abs().sum()
    hits = int((sums >= exact.sum().abs() - rounding).sum())
    return (hits + extra) / (len(bits) + extra)


def _percentiles(values: Float[Tensor, " draws"]) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    low, high = torch.quantile(values, torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return float(low), float(high)
