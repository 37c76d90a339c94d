"""Bradley-Terry: closed forms of two methods, simulated votes, and Wilson's interval."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stylescore.comparison.ranking import (
    Strength,
    Vote,
    _information,
    _maximise,
    count_wins,
    strengths,
    wilson_interval,
    win_rates,
)
from stylescore.errors import ConfigError

NAMES = ("a", "b", "c", "d")


def table(**wins: int) -> np.ndarray:
    """Return wins given as `ab=3` for three wins of a against b."""
    found = np.zeros((4, 4))
    for pair, count in wins.items():
        found[NAMES.index(pair[0]), NAMES.index(pair[1])] = count
    return found


def by_name(found: list[Strength]) -> dict[str, Strength]:
    return {entry.name: entry for entry in found}


def test_wins_are_counted_and_ties_count_half() -> None:
    votes = [Vote("a", "b", "a"), Vote("b", "a", "a"), Vote("a", "b", None), Vote("b", "c", "c")]
    assert count_wins(votes, NAMES[:3]).tolist() == [[0, 2.5, 0], [0.5, 0, 0], [0, 1, 0]]
    for wrong in (Vote("a", "x", "a"), Vote("a", "b", "c")):
        with pytest.raises(ConfigError, match="cannot be counted"):
            count_wins([wrong], NAMES)


def test_two_methods_have_the_closed_form() -> None:
    """The difference is log(30 / 10); its variance 1 / 30 + 1 / 10, each strength being half of it."""
    found = by_name(strengths(table(ab=30, ba=10)[:2, :2], ("a", "b")))
    assert found["a"].value - found["b"].value == pytest.approx(math.log(3), abs=1e-9)
    half = 1.959964 * math.sqrt(1 / 30 + 1 / 10) / 2
    assert found["a"].high - found["a"].value == pytest.approx(half, rel=1e-5)
    assert found["a"].value == pytest.approx(-found["b"].value)


def test_wins_in_exact_proportion_give_the_strengths_back() -> None:
    truth = np.array([0.9, 0.1, -0.3, -0.7])
    wins = 100 / (1 + np.exp(truth[None] - truth[:, None]))
    np.fill_diagonal(wins, 0)
    assert _maximise(wins) == pytest.approx(truth, abs=1e-8)


def test_the_information_is_the_second_derivative_of_the_likelihood() -> None:
    wins = table(ab=5, ba=3, bc=4, cb=6, ca=2, ac=7)[:3, :3]

    def likelihood(s: np.ndarray) -> float:
        return float((wins * -np.log1p(np.exp(s[None, :] - s[:, None]))).sum())

    at, step = np.array([0.3, -0.2, -0.1]), 1e-4
    numeric = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            e, f = step * np.eye(3)[i], step * np.eye(3)[j]
            numeric[i, j] = (
                likelihood(at + e + f) - likelihood(at + e - f) - likelihood(at - e + f) + likelihood(at - e - f)
            ) / (4 * step**2)
    assert _information(wins, at) == pytest.approx(-numeric, abs=1e-4)


def test_nineteen_of_twenty_intervals_hold_the_simulated_strengths() -> None:
    truth, rng = np.array([0.8, 0.2, -0.2, -0.8]), np.random.default_rng(0)
    probability = 1 / (1 + np.exp(truth[None] - truth[:, None]))
    hits = errors = 0
    for _ in range(200):
        upper = np.triu(rng.binomial(40, probability), 1)
        wins = upper + np.tril(40 - upper.T, -1)
        found = by_name(strengths(wins.astype(float), NAMES))
        hits += sum(found[name].low <= value <= found[name].high for name, value in zip(NAMES, truth, strict=True))
        errors += [entry.name for entry in strengths(wins.astype(float), NAMES)] != list(NAMES)
    assert 0.93 <= hits / 800 <= 0.97
    assert errors < 60


def test_without_finite_strengths_the_reason_is_named() -> None:
    with pytest.raises(ConfigError, match="'b' has not won against 'a'"):
        strengths(table(ab=9)[:2, :2], ("a", "b"))
    with pytest.raises(ConfigError, match="'a' has not won against 'c'"):
        strengths(table(ab=3, ba=3, cd=2, dc=1), NAMES)
    assert strengths(table(ab=1, bc=1, ca=1)[:3, :3], NAMES[:3])


def test_win_rates_are_sorted_and_methods_without_votes_left_out() -> None:
    found = win_rates(table(ab=1, ba=3), NAMES)
    assert [(entry.name, entry.rate, entry.votes) for entry in found] == [("b", 0.75, 4), ("a", 0.25, 4)]


def test_wilsons_interval_solves_its_equation_and_stays_within_bounds() -> None:
    """At both ends, the distance to the rate is 1.96 standard deviations of a rate that is the end itself."""
    low, high = wilson_interval(7, 20)
    for end in (low, high):
        assert abs(0.35 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 20), rel=1e-6)
    assert wilson_interval(0, 5)[0] == 0
    assert wilson_interval(5, 5)[1] == 1
