"""Every metric from rows that are written out here: closed forms, bounds, and what each needs."""

from __future__ import annotations

import pytest
import torch

from stylescore.errors import ConfigError
from stylescore.evaluation.catalogue import METRICS, Sampling, Score
from stylescore.evaluation.loading import WEIGHTS

NO_INTERVAL = Sampling(0, 0)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def score(name: str, pairs: dict[str, torch.Tensor], style: dict[str, torch.Tensor], draws: int = 0) -> Score:
    return METRICS[name].compute(pairs, style, Sampling(draws, 0))


def test_artfid_is_its_formula_of_a_shift_in_closed_form() -> None:
    """Equal pictures but for a shift of their features by d are at Frechet distance |d|^2."""
    features, shift = random(30, 4), torch.tensor([1.0, 0.0, 2.0, 0.0])
    pairs = {"lpips-alex": torch.tensor([0.2, 0.4] * 15), "art": features + shift}
    style = {"art": features}
    assert score("art-fid", pairs, style).value == pytest.approx(5, rel=1e-4)
    found = score("artfid", pairs, style, draws=20)
    assert found.value == pytest.approx((1 + 0.3) * (1 + 5), rel=1e-4)
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high


@pytest.mark.parametrize("name", ["fid", "art-fid", "mobilenet-frechet"])
def test_identical_folders_are_at_frechet_distance_zero(name: str) -> None:
    (probe,) = METRICS[name].probes
    rows = {probe: random(12, 20)}
    assert score(name, rows, rows).value == pytest.approx(0, abs=1e-3)
    assert METRICS[name].is_biased


def test_style_similarities_are_means_of_cosines() -> None:
    """Results along the first axis, and style pictures along it and at right angles: 1 and 0, and 45 degrees."""
    pairs = {"csd": torch.tensor([[2.0, 0.0], [1.0, 0.0]])}
    style = {"csd": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    assert score("csd", pairs, style).values == pytest.approx((0.5, 0.5))
    assert score("csd-set", pairs, style).value == pytest.approx(0.5**0.5)


def test_colours_are_compared_with_every_picture_of_the_style() -> None:
    """Histograms without a common colour are at distance 1, equal ones at 0."""
    pairs = {"histogram": torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    style = {"histogram": torch.tensor([[1.0, 0.0]])}
    assert score("histogram", pairs, style).values == pytest.approx((0, 1))


def test_the_clip_direction_needs_two_texts() -> None:
    same = random(3, 4)
    rows = {name: same for name in ("clip-source", "clip-stylized", "clip-before", "clip-after")}
    with pytest.raises(ConfigError, match="the CLIP direction needs two different texts"):
        score("clip-direction", rows, {})
    axes = torch.eye(3)
    rows = {"clip-source": axes[:2], "clip-before": axes[:2], "clip-after": axes[[2, 2]]}
    found = score("clip-direction", {**rows, "clip-stylized": 3 * axes[[2, 0]]}, {})
    assert found.values == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs == ("photo",)])
def test_a_distance_of_pairs_is_their_mean_whatever_the_style(name: str) -> None:
    values = torch.tensor([0.1, 0.2, 0.6])
    found = score(name, {name: values}, {})
    assert found.value == pytest.approx(0.3)
    assert found.values == pytest.approx((0.1, 0.2, 0.6))


def test_every_probe_of_a_metric_says_its_weights() -> None:
    assert {probe for metric in METRICS.values() for probe in metric.probes} == set(WEIGHTS)
