"""Kernel distance: by hand, its expectation, and symmetry."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.kernel import cubic_kernel, kernel_distance


def sample(seed: int, count: int, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_kernel_by_hand() -> None:
    x = torch.tensor([[1.0, 1.0]])
    assert cubic_kernel(x, torch.tensor([[2.0, 0.0], [0.0, -2.0]])).tolist() == [[8.0, 0.0]]


def test_a_tiny_example_by_hand() -> None:
    """Width 1: k(a, b) = (a b + 1)^3; within {0, 1} it is 1, within {2, 3} it is 343, across 1, 1, 27, 64."""
    first, second = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert kernel_distance(first, second) == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


@pytest.mark.parametrize("count", [4, 40])
def test_two_samples_of_one_distribution_are_at_zero_on_average_whatever_their_number(count: int) -> None:
    values = torch.tensor([kernel_distance(sample(n, count), sample(1000 + n, count)) for n in range(400)])
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean())) < 3 * error
    assert bool((values < 0).any())


def test_different_distributions_are_apart_and_the_order_does_not_matter() -> None:
    first, second = sample(1, 30), sample(2, 20) + 1
    assert kernel_distance(first, second) > 1
    assert kernel_distance(first, second) == pytest.approx(kernel_distance(second, first))


def test_errors_name_the_number() -> None:
    with pytest.raises(ConfigError, match="the same number of features, not 8 and 3"):
        kernel_distance(sample(1, 4), sample(2, 4, 3))
    with pytest.raises(ConfigError, match="at least 2 pictures, got 1"):
        kernel_distance(sample(1, 1), sample(2, 4))
