"""Bootstrap intervals: against the closed form of a mean, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylescore.metrics.accumulate import Rows
from stylescore.metrics.intervals import centred_interval, mean_interval, resample, sign_flip_test


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = torch.randn(400, generator=rng(1))
    found, error = mean_interval(values, 4000, rng()), float(values.std(correction=0)) / 20
    assert found.low == pytest.approx(float(values.mean()) - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(float(values.mean()) + 1.96 * error, abs=0.2 * error)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    hits = 0
    for seed in range(200):
        found = mean_interval(torch.rand(60, generator=rng(seed)), 200, rng(1000 + seed))
        hits += found.low <= 0.5 <= found.high
    assert 180 <= hits <= 198


@pytest.mark.parametrize("values", [[1.0, 2, 3, -0.5, 4, 1.5], [0.3, -0.2], [2.0] * 12, [-1.0, 0, 3, 2, 2, -2, 7]])
def test_flips_of_signs_are_those_of_scipy(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_test(torch.tensor(values), rng()) == pytest.approx(expected)


def test_five_pairs_are_too_few_and_six_are_enough() -> None:
    assert sign_flip_test(torch.ones(5), rng()) == 2 / 32
    assert sign_flip_test(torch.ones(6), rng()) == 2 / 64


@pytest.mark.parametrize("count", [6, 30])
def test_without_a_difference_one_of_twenty_tests_is_wrong(count: int) -> None:
    found = [sign_flip_test(torch.randn(count, generator=rng(seed)), rng(seed)) < 0.05 for seed in range(300)]
    assert 3 <= sum(found) <= 27
    assert sign_flip_test(torch.randn(30, generator=rng(0)) + 1, rng()) < 0.01


def test_a_biased_statistic_is_centred_on_its_value() -> None:
    """Resamples that lie three above the value, with a standard deviation of 1."""
    found = centred_interval(10.0, lambda g: 13.0 + float(torch.randn(1, generator=g)), 2000, rng())
    assert (found.low, found.high) == pytest.approx((10 - 1.96, 10 + 1.96), abs=0.15)


def test_a_resample_repeats_pictures_and_the_same_seed_gives_the_same() -> None:
    chosen = resample(100, rng(3))
    assert 50 < len(set(chosen.tolist())) < 80
    assert torch.equal(chosen, resample(100, rng(3)))


def test_rows_forget_their_batches() -> None:
    data = torch.arange(12.0).reshape(6, 2)
    for sizes in ([6], [1] * 6, [4, 2]):
        rows = Rows()
        for batch in data.split(sizes):
            rows.add({"x": batch, "first": batch[:, 0]})
        assert torch.equal(rows.tables()["x"], data)
        assert torch.equal(rows.tables()["first"], data[:, 0])
