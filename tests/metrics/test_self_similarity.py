"""CFSD and the structure distance: by hand, against whole matrices, and invariances."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stylescore.metrics.self_similarity import cfsd, position_distance, positions_of, structure_distance


def features(seed: int, count: int = 2, positions: int = 30, channels: int = 8) -> Tensor:
    return 6 * torch.randn(count, positions, channels, generator=torch.Generator().manual_seed(seed)).relu()


def test_cfsd_of_two_positions_by_hand() -> None:
    """One channel: content (1, 0) has S = [[1, 0], [0, 0]], stylized (0, 0) has zeros, whose rows are even."""
    content, stylized = torch.tensor([[[1.0], [0.0]]]), torch.zeros(1, 2, 1)
    p = torch.softmax(torch.tensor([1.0, 0.0]), 0)
    expected = float((p * (p * 2).log()).sum())
    assert cfsd(content, stylized).item() == pytest.approx(expected, rel=1e-5)


def test_cfsd_is_the_divergence_of_whole_matrices_in_torchs_own_loss() -> None:
    content, stylized = features(1), features(2)
    p, q = (torch.softmax(x @ x.mT / 8**2, dim=2) for x in (content, stylized))
    expected = [functional.kl_div(b.log(), a, reduction="sum") for a, b in zip(p, q, strict=True)]
    assert torch.allclose(cfsd(content, stylized), torch.stack(expected), rtol=1e-4)


@pytest.mark.parametrize("distance", [cfsd, structure_distance])
@pytest.mark.parametrize("rows", [1, 7, 30, 100])
def test_blocks_and_batches_do_not_change_a_distance(distance: Callable[..., Tensor], rows: int) -> None:
    content, stylized = features(3, 3), features(4, 3)
    alone = torch.cat([distance(content[n : n + 1], stylized[n : n + 1], rows) for n in range(3)])
    assert torch.allclose(distance(content, stylized), alone, rtol=1e-5)


def test_cfsd_is_zero_for_equal_features_and_not_symmetric() -> None:
    content, stylized = features(5), features(6)
    assert cfsd(content, content).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert bool((cfsd(content, stylized) > 0).all())
    assert not torch.allclose(cfsd(content, stylized), cfsd(stylized, content), rtol=1e-3)


def test_positions_of_an_activation_are_its_vectors_row_by_row() -> None:
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert positions_of(x).tolist() == [[[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]]


def test_structure_distance_by_hand_and_its_invariances() -> None:
    """Two tokens at a right angle against two in one direction: two of four cosines differ by 1."""
    right, along = torch.tensor([[[3.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[1.0, 1.0], [2.0, 2.0]]])
    assert structure_distance(right, along).item() == pytest.approx(2 / 4)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
    assert structure_distance(features(1), 3 * features(1) @ turn).tolist() == pytest.approx([0, 0], abs=1e-5)


def test_position_distance_by_hand() -> None:
    first = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    second = torch.tensor([[[2.0, 0.0], [0.0, 5.0]]])
    assert position_distance(first, second).item() == pytest.approx(0.5)
    assert position_distance(first, -first).item() == pytest.approx(2)


def test_cfsd_of_nearly_equal_features_is_their_divergence_and_not_rounding() -> None:
    """In double precision, the sum of p log(p / q) is exact; in single precision it would be lost."""
    content = features(7, 1, 400) / 20
    stylized = content + 0.01 * features(8, 1, 400) / 20
    p, q = (torch.softmax((x @ x.mT / 8**2).double(), dim=2) for x in (content, stylized))
    expected = float((p * (p / q).log()).sum())
    assert cfsd(content, stylized).item() == pytest.approx(expected, rel=0.02)
    assert cfsd(content, content).item() == 0


def test_cfsd_of_rows_that_exclude_each_other_is_their_difference_of_logits() -> None:
    """First row: 2025 against 0 for the content, 2025 against 4050 for the other; the second rows agree."""
    content = torch.tensor([[[90.0, 0.0], [0.0, 90.0]]])
    stylized = torch.tensor([[[90.0, 0.0], [180.0, 0.0]]])
    assert cfsd(content, stylized).item() == pytest.approx(2025)
