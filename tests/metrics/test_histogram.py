"""The RGB-uv histogram: its definition pixel by pixel, and the Hellinger distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stylescore.metrics.histogram import BINS, LARGEST_SIDE, colour_histogram, hellinger_distance


def pictures(seed: int, count: int = 2, side: int = 12) -> Tensor:
    return 2 * torch.rand(count, 3, side, side + 4, generator=torch.Generator().manual_seed(seed)) - 1


def distances(first: Tensor, second: Tensor) -> Tensor:
    return hellinger_distance(colour_histogram(first).flatten(1), colour_histogram(second).flatten(1))


def by_pixels(picture: Tensor) -> Tensor:
    """Return the histogram of one picture with a loop over its pixels, as the paper writes it."""
    found = torch.zeros(3, BINS, BINS, dtype=torch.float64)
    centres = torch.linspace(-3, 3, BINS, dtype=torch.float64)
    for pixel in ((picture + 1) / 2).double().flatten(1).T:
        intensity = math.sqrt(float(pixel.square().sum()) + 1e-6)
        for c, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
            u, v = (math.log(pixel[c] + 1e-6) - math.log(pixel[n] + 1e-6) for n in (a, b))
            weights = [1 / (1 + ((x - centres).abs() / 0.02) ** 2) for x in (u, v)]
            found[c] += intensity * torch.outer(*weights)
    return found / (found.sum() + 1e-6)


def test_it_is_the_published_definition_and_sums_to_one() -> None:
    x = pictures(1, 1, 5)
    assert torch.allclose(colour_histogram(x)[0].double(), by_pixels(x[0]), rtol=1e-4, atol=1e-8)
    assert colour_histogram(x).sum().item() == pytest.approx(1, abs=1e-4)


def test_where_the_colours_are_does_not_matter() -> None:
    x = pictures(2)
    assert distances(x, x.flip(3)).diagonal().tolist() == pytest.approx([0, 0], abs=1e-3)
    assert float(distances(x, -x).diagonal().min()) > 0.1


def test_large_pictures_are_resized_and_a_batch_equals_its_pictures() -> None:
    large = pictures(3, 2, LARGEST_SIDE)
    alone = torch.cat([colour_histogram(large[n : n + 1]) for n in range(2)])
    assert torch.allclose(colour_histogram(large), alone, rtol=1e-5)


def test_hellinger_distance_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    q = torch.tensor([[0.0, 1.0]])
    assert hellinger_distance(p, q).flatten().tolist() == pytest.approx([1, math.sqrt(1 - math.sqrt(0.5))])
    assert hellinger_distance(p, p).diagonal().tolist() == pytest.approx([0, 0], abs=1e-6)
