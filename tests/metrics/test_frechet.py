"""Frechet distance: closed forms of Gaussians, and its bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.frechet import (
    _intercept,
    fewest_for_infinity,
    frechet_distance,
    frechet_infinity,
    gaussian_distance,
    mean_and_covariance,
    principal_axes,
    square_root,
    trace_of_square_root,
)


def sample(seed: int, count: int, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spd(seed: int, width: int = 5) -> Tensor:
    square = sample(seed, width, width)
    return square @ square.T


def test_gaussians_with_diagonal_covariances_have_a_distance_in_closed_form() -> None:
    first = torch.tensor([1.0, 2.0]).double(), torch.diag(torch.tensor([4.0, 9.0]).double())
    second = torch.tensor([0.0, 5.0]).double(), torch.diag(torch.tensor([1.0, 16.0]).double())
    assert gaussian_distance(first, second) == pytest.approx((1 + 9) + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_the_trace_of_the_root_is_that_of_scipys_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = spd(1), spd(2)
    assert trace_of_square_root(first, second) == pytest.approx(linalg.sqrtm((first @ second).numpy()).trace().real)


def test_the_root_squared_is_the_matrix_even_without_full_rank() -> None:
    thin = sample(3, 5, 2)
    matrix = thin @ thin.T
    assert torch.allclose(square_root(matrix) @ square_root(matrix), matrix, atol=1e-10)


def test_a_shift_costs_its_square() -> None:
    features = sample(4, 50)
    assert frechet_distance(features, features + 2) == pytest.approx(6 * 4)


def test_a_set_is_at_distance_zero_of_itself_with_fewer_pictures_than_features() -> None:
    features = sample(5, 4, 20).float()
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


def test_the_order_does_not_matter() -> None:
    first, second = sample(6, 30), 2 * sample(7, 20) + 1
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_it_is_biased_upward_the_more_the_fewer_pictures() -> None:
    few, many = (frechet_distance(sample(8, n, 10), sample(9, n, 10)) for n in (20, 2000))
    assert 0 < 10 * many < few


def test_mean_and_covariance_are_what_torch_says() -> None:
    features = sample(10, 12)
    mean, covariance = mean_and_covariance(features)
    assert torch.allclose(mean, features.mean(dim=0))
    assert torch.allclose(covariance, torch.cov(features.T))


def test_axes_keep_the_directions_of_most_variance_and_distances_along_them() -> None:
    features = sample(11, 200) * torch.tensor([5, 3, 0, 0, 0, 0]).double()
    axes = principal_axes(features, 2)
    other = features + torch.tensor([1, 0, 0, 0, 0, 0]).double()
    assert axes.explained_variance == pytest.approx(1)
    assert axes(features).shape == (200, 2)
    assert torch.allclose(axes(features).mean(dim=0), torch.zeros(2).double(), atol=1e-10)
    assert axes(features).var(dim=0)[0] > axes(features).var(dim=0)[1]
    assert frechet_distance(axes(features), axes(other)) == pytest.approx(1)


def test_errors_name_the_number() -> None:
    with pytest.raises(ConfigError, match="the same number of features, not 6 and 5"):
        frechet_distance(sample(1, 4), sample(2, 4, 5))
    with pytest.raises(ConfigError, match="at least 2 pictures, got 1"):
        frechet_distance(sample(1, 4), sample(2, 1))
    with pytest.raises(ConfigError, match="from 1 to 3, not 4"):
        principal_axes(sample(1, 4), 4)


def test_sets_smaller_than_their_features_have_the_distance_of_their_covariances() -> None:
    first, second = sample(11, 9, 20), 2 * sample(12, 13, 20) + 0.3
    covariances = gaussian_distance(mean_and_covariance(first), mean_and_covariance(second))
    assert frechet_distance(first, second) == pytest.approx(covariances, rel=1e-6)


def test_extrapolation_removes_the_bias() -> None:
    """N(0, I) and N(0.5, 4 I) in 6 dimensions: 6 (0.25 + 1). The plain distance of 60 lies above, at every seed."""
    truth, plain, extrapolated = 6 * 1.25, [], []
    for seed in range(30):
        first, second = sample(seed, 60), 2 * sample(1000 + seed, 60) + 0.5
        plain.append(frechet_distance(first, second))
        extrapolated.append(frechet_infinity(first, second, torch.Generator().manual_seed(seed)).value)
    errors = torch.tensor([plain, extrapolated]).double() - truth
    bias, noise = errors.mean(dim=1), errors.std(dim=1) / 30**0.5
    assert bias[0] > 5 * noise[0]
    assert abs(bias[1]) < 3 * noise[1]
    assert abs(bias[1]) < bias[0] / 3


def test_extrapolation_finds_the_end_of_a_line_and_its_error() -> None:
    x = 1 / torch.tensor([10.0, 20.0, 50.0, 100.0]).double()
    value, error = _intercept(x, 7 + 30 * x)
    assert (value, error) == pytest.approx((7, 0), abs=1e-9)
    _, scattered = _intercept(x, 7 + 30 * x + torch.tensor([0.1, -0.1, 0.1, -0.1]).double())
    assert scattered > 0.05


def test_extrapolation_takes_equally_many_of_both_sets_from_the_smallest_size_to_all() -> None:
    found = frechet_infinity(sample(1, 80), sample(2, 300), torch.Generator().manual_seed(0))
    assert (found.sizes[0], found.sizes[-1], len(found.sizes)) == (15, 80, 15)
    steps = 1 / torch.tensor(found.sizes).double()
    assert float(steps.diff().std()) < 0.25 * abs(float(steps.diff().mean()))


def test_too_few_pictures_for_an_extrapolation_are_refused() -> None:
    assert fewest_for_infinity(2048) == 7680
    with pytest.raises(ConfigError, match="needs 23 pictures of each set, got 22"):
        frechet_infinity(sample(1, 22), sample(2, 300), torch.Generator())
