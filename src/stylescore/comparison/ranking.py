"""What votes between pairs say: win rates, and strengths of the Bradley-Terry model with intervals.

Sources: "Rank Analysis of Incomplete Block Designs: I. The Method of Paired Comparisons", Biometrika 1952; the
iteration, "MM Algorithms for Generalized Bradley-Terry Models", Annals of Statistics 2004, equation 3; Wilson's
interval, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stylescore.errors import ConfigError

Z = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95 %."""
_ITERATIONS = 100_000
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Vote:
    """One choice between two methods; a tie has no winner.

    Attributes:
        first: name of a method.
        second: name of the other.
        winner: one of the two, or `None`.
    """

    first: str
    second: str
    winner: str | None


@dataclass(frozen=True)
class WinRate:
    """How often a method won; a tie counts half.

    Attributes:
        name: of the method.
        rate: from 0 to 1.
        low: lower end of the interval of 95 %.
        high: its upper end.
        votes: number of comparisons with this method.
    """

    name: str
    rate: float
    low: float
    high: float
    votes: int


@dataclass(frozen=True)
class Strength:
    """A method's strength: the logarithm of the odds to win against a method of mean strength.

    Attributes:
        name: of the method.
        value: the estimate; those of all methods sum to 0.
        low: lower end of the interval of 95 %.
        high: its upper end.
    """

    name: str
    value: float
    low: float
    high: float


def count_wins(votes: Iterable[Vote], names: Sequence[str]) -> np.ndarray:
    """Return how often each method (row) won against each other (column); a tie is half a win for both.

    Raises:
        ConfigError: a vote names another method.
    """
    index = {name: n for n, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for vote in votes:
        if not {vote.first, vote.second} <= index.keys() or vote.winner not in (vote.first, vote.second, None):
            raise ConfigError(
                f"a vote between {vote.first!r} and {vote.second!r} for {vote.winner!r} cannot be counted"
            )
        first, second = index[vote.first], index[vote.second]
        share = 0.5 if vote.winner is None else float(vote.winner == vote.first)
        wins[first, second] += share
        wins[second, first] += 1 - share
    return wins


def win_rates(wins: np.ndarray, names: Sequence[str]) -> list[WinRate]:
    """Return the win rates of all methods with Wilson's intervals, the highest first; without votes, it is left out."""
    found = []
    for name, won, lost in zip(names, wins.sum(axis=1), wins.sum(axis=0), strict=True):
        if won + lost > 0:
            low, high = wilson_interval(float(won), float(won + lost))
            found.append(WinRate(name, float(won / (won + lost)), low, high, round(won + lost)))
    return sorted(found, key=lambda entry: -entry.rate)


def wilson_interval(won: float, count: float) -> tuple[float, float]:
    """Return the interval of 95 % of a rate, for `won` of `count` votes; it stays within 0 and 1."""
    rate, spread = won / count, Z**2 / count
    middle = (rate + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * np.sqrt(rate * (1 - rate) / count + spread / (4 * count))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def strengths(wins: np.ndarray, names: Sequence[str]) -> list[Strength]:
    """Return the maximum likelihood strengths of the Bradley-Terry model, the largest first.

    The model: a method of strength a wins against one of strength b with the probability 1 / (1 + exp(b - a)). The
    intervals come from the inverse of the observed information; they take every vote as independent.

    Raises:
        ConfigError: the methods fall into two groups of which one never lost to the other, or was never compared with
            it: then no finite strengths are the most probable.
    """
    _require_connected(wins, names)
    value = _maximise(wins)
    error = np.sqrt(np.diag(np.linalg.pinv(_information(wins, value))))
    ends = zip(names, value, value - Z * error, value + Z * error, strict=True)
    found = [Strength(name, *map(float, numbers)) for name, *numbers in ends]
    return sorted(found, key=lambda entry: -entry.value)


def _maximise(wins: np.ndarray) -> np.ndarray:
    """Return the strengths at which the likelihood is largest: each step raises it."""
    games, won = wins + wins.T, wins.sum(axis=1)
    p = np.ones(len(wins))
    for _ in range(_ITERATIONS):
        new = won / (games / (p[:, None] + p)).sum(axis=1)
        new /= np.exp(np.log(new).mean())
        done = np.abs(np.log(new / p)).max() < _TOLERANCE
        p = new
        if done:
            break
    strength: np.ndarray = np.log(p)
    return strength


def _information(wins: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return minus the second derivatives of the log likelihood; the constant vector is in its null space."""
    odds = 1 / (1 + np.exp(strength[None, :] - strength[:, None]))
    weight = (wins + wins.T) * odds * (1 - odds)
    information: np.ndarray = np.diag(weight.sum(axis=1)) - weight
    return information


def _require_connected(wins: np.ndarray, names: Sequence[str]) -> None:
    """Raise `ConfigError` unless every method can be reached from every other along wins."""
    reach = np.linalg.matrix_power(np.eye(len(wins)) + (wins > 0), len(wins)) > 0
    for start, name in enumerate(names):
        unreached = [other for n, other in enumerate(names) if not reach[start, n]]
        if unreached:
            raise ConfigError(
                f"{name!r} has not won against {unreached[0]!r}, directly or through others: "
                "its strength has no finite estimate",
                hint="collect more votes",
            )
