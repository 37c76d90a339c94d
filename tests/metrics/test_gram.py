"""Gram matrices and nearest neighbours: by hand, and what must not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylescore.metrics.gram import (
    gram_matrix,
    nearest_neighbour_distance,
    paired_gram_distance,
    relative_gram_distance,
)


def features(seed: int, count: int = 2, positions: int = 20) -> Tensor:
    return torch.randn(count, positions, 5, generator=torch.Generator().manual_seed(seed))


def test_a_gram_matrix_by_hand_and_the_order_of_positions_does_not_matter() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    assert gram_matrix(x).tolist() == [[[5.0, 7.0], [7.0, 10.0]]]
    assert torch.allclose(gram_matrix(features(1)), gram_matrix(features(1).flip(1)), atol=1e-6)


def test_the_relative_distance_by_hand_and_its_bounds() -> None:
    """Levels of 1 x 1: |2 - 6| / 8 and |1 - 1| / 2, of mean 1/4; whatever the scale."""
    first, second = ([torch.tensor([[[a]]]), torch.tensor([[[b]]])] for a, b in ((2.0, 1.0), (6.0, 1.0)))
    assert relative_gram_distance(first, second).item() == pytest.approx(0.25)
    scaled = relative_gram_distance([10 * x for x in first], [10 * x for x in second])
    assert scaled.item() == pytest.approx(0.25)
    grams = [gram_matrix(features(1))]
    assert relative_gram_distance(grams, grams).diagonal().tolist() == pytest.approx([0, 0], abs=1e-3)


def test_partners_have_the_diagonal_of_all_distances_and_a_gradient_where_they_are_equal() -> None:
    first, second = ([gram_matrix(features(seed)), gram_matrix(features(seed + 1))] for seed in (1, 5))
    wanted = relative_gram_distance(first, second).diagonal()
    torch.testing.assert_close(paired_gram_distance(first, second), wanted)
    same = first[0].clone().requires_grad_()
    distance = paired_gram_distance([same], [first[0]])
    assert distance.tolist() == [0, 0]
    black = [torch.zeros_like(first[0])]
    assert paired_gram_distance(black, black).tolist() == [0, 0]
    distance.sum().backward()
    assert same.grad is not None
    assert bool(same.grad.isfinite().all())


def test_nearest_neighbours_by_hand() -> None:
    style = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    assert nearest_neighbour_distance(x, style).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("rows", [1, 6, 100])
def test_blocks_do_not_change_it_and_a_pictures_own_vectors_are_at_zero(rows: int) -> None:
    x = features(2)
    assert torch.allclose(
        nearest_neighbour_distance(x, features(3)[0], rows), nearest_neighbour_distance(x, features(3)[0])
    )
    assert nearest_neighbour_distance(x, x.flatten(0, 1), rows).tolist() == pytest.approx([0, 0], abs=1e-6)
