"""Targets and weights against their closed forms."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import PredictionType
from stylescore.training.targets import LOSSES, min_snr_weight, network_target, plain_weight, snr_at, weighted_error

KINDS = get_args(PredictionType)
TIMES = torch.tensor([0, 10, 250, 600, 999])


@pytest.fixture
def sample() -> dict[str, Any]:
    rng = torch.Generator().manual_seed(1)
    shape = (len(TIMES), 4, 3, 5)
    return {"z": torch.randn(shape, generator=rng).double(), "eps": torch.randn(shape, generator=rng).double()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_converts_back_to_the_noise(schedule: NoiseSchedule, sample: dict[str, Any], kind: Any) -> None:
    double = schedule.double()
    z_t = double.add_noise(sample["z"], sample["eps"], TIMES)
    target = network_target(double, kind, sample["z"], sample["eps"], TIMES)
    torch.testing.assert_close(double.to_eps(target, kind, z_t, TIMES), sample["eps"], rtol=0, atol=1e-9)


def test_v_is_what_diffusers_calls_the_velocity(schedule: NoiseSchedule, sample: dict[str, Any]) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    z, eps = sample["z"].float(), sample["eps"].float()
    velocity = theirs.get_velocity(z, eps, TIMES)
    torch.testing.assert_close(network_target(schedule, "v_prediction", z, eps, TIMES), velocity)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weighs_an_error_of_the_clean_latent_the_same_for_every_kind(
    schedule: NoiseSchedule, sample: dict[str, Any], kind: Any
) -> None:
    """An error of the clean latent, seen through each kind of network, costs min(SNR, 5) times its square."""
    double, wrong = schedule.double(), sample["z"] + 0.1
    z_t = double.add_noise(sample["z"], sample["eps"], TIMES)
    eps_of_wrong = double.to_eps(wrong, "sample", z_t, TIMES)
    target = network_target(double, kind, sample["z"], sample["eps"], TIMES)
    output = network_target(double, kind, wrong, eps_of_wrong, TIMES)
    cost = (min_snr_weight(double, kind, TIMES, 5.0) * (output - target).square()).flatten(1).mean(1)
    expected = snr_at(double, TIMES).clamp(max=5.0).flatten() * 0.01
    torch.testing.assert_close(cost, expected, rtol=1e-6, atol=0)


def test_min_snr_is_one_where_there_is_more_noise_than_gamma(schedule: NoiseSchedule) -> None:
    t = torch.tensor([999])
    assert float(min_snr_weight(schedule, "epsilon", t, 5.0)) == 1.0


def test_min_snr_is_finite_where_no_signal_is_left() -> None:
    dead = NoiseSchedule(torch.tensor([0.5, 1.0]), stride=1)
    for kind in KINDS:
        assert bool(min_snr_weight(dead, kind, torch.tensor([1]), 5.0).isfinite().all())


def test_the_plain_weight_is_one(schedule: NoiseSchedule) -> None:
    assert bool((plain_weight(schedule, "epsilon", TIMES, 5.0) == 1).all())
    assert set(LOSSES) == {"plain", "min_snr"}


def test_an_error_is_averaged_over_each_sample_alone() -> None:
    output = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 4, 2, 3)
    errors = weighted_error(output, torch.zeros(2, 4, 2, 3), torch.tensor([2.0, 0.5]).view(2, 1, 1, 1))
    assert errors.tolist() == [2.0, 4.5]
