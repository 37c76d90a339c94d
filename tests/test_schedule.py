import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from stylescore.schedule import (
    NoiseSchedule,
    alpha_bar_squared_weight,
    min_snr_weight,
    noise_weight,
    posterior_weight,
    unit_weight,
)

EVERY_T = torch.arange(1000)


@pytest.fixture(scope="module")
def reference() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 2, generator=rng), torch.randn(count, 2, 3, 2, generator=rng)


def test_betas_and_their_product_equal_diffusers(schedule: NoiseSchedule, reference: DDPMScheduler) -> None:
    assert torch.equal(schedule.betas, reference.betas)
    assert torch.equal(schedule.alphas_cumprod, reference.alphas_cumprod)


def test_betas_and_their_product_equal_the_recording(schedule: NoiseSchedule, units: dict[str, Tensor]) -> None:
    assert torch.equal(schedule.betas, units["schedule/betas"])
    assert torch.equal(schedule.alphas_cumprod, units["schedule/alphas_cumprod"])


def test_add_noise_equals_diffusers(schedule: NoiseSchedule, reference: DDPMScheduler) -> None:
    z, eps = pictures(1000)
    assert torch.equal(schedule.add_noise(z, eps, EVERY_T), reference.add_noise(z, eps, EVERY_T))


def test_noise_is_recovered_from_v_as_diffusers_defines_it(schedule: NoiseSchedule, reference: DDPMScheduler) -> None:
    z, eps = pictures(1000)
    v = reference.get_velocity(z, eps, EVERY_T)
    found = schedule.to_eps(v, "v_prediction", schedule.add_noise(z, eps, EVERY_T), EVERY_T)
    assert torch.allclose(found, eps, atol=1e-5)


def test_noise_is_recovered_from_the_clean_sample(schedule: NoiseSchedule) -> None:
    exact = schedule.double()
    z, eps = (x.double() for x in pictures(1000))
    found = exact.to_eps(z, "sample", exact.add_noise(z, eps, EVERY_T), EVERY_T)
    assert torch.allclose(found, eps, atol=1e-9)


def test_an_epsilon_prediction_is_left_as_it_is(schedule: NoiseSchedule) -> None:
    z_t, eps = pictures(4)
    assert schedule.to_eps(eps, "epsilon", z_t, torch.tensor([1, 99, 499, 999])) is eps


def test_clean_latent_undoes_add_noise(schedule: NoiseSchedule) -> None:
    exact = schedule.double()
    z, eps = (x.double() for x in pictures(1000))
    assert torch.allclose(exact.to_clean(eps, exact.add_noise(z, eps, EVERY_T), EVERY_T), z, atol=1e-9)


def test_posterior_variance_equals_the_recording(schedule: NoiseSchedule, units: dict[str, Tensor]) -> None:
    t = units["schedule/timesteps_ascending"][1:].long()
    recorded = units["schedule/sigma_t_sq_by_index"][1:]
    assert torch.allclose(schedule.posterior_variance(t).flatten(), recorded, rtol=1e-6, atol=0)


def test_posterior_variance_uses_the_grid_point_before(schedule: NoiseSchedule) -> None:
    t = torch.tensor([21])
    abar = schedule.alphas_cumprod
    by_hand = (1 - abar[19]) / (1 - abar[21]) * schedule.betas[21]
    assert schedule.posterior_variance(t).item() == by_hand.item()
    assert NoiseSchedule(schedule.betas, stride=1).posterior_variance(t).item() > 1.02 * by_hand.item()


@pytest.mark.parametrize("t", [-1, -2, -999])
def test_nothing_is_noised_before_the_first_timestep(schedule: NoiseSchedule, t: int) -> None:
    assert schedule.alpha_bar(torch.tensor([t, 0])).flatten().tolist() == [
        1.0,
        schedule.alphas_cumprod[0].item(),
    ]
    assert schedule.sigma(torch.tensor([t])).item() == 0


def test_alpha_and_sigma_are_a_point_on_the_unit_circle(schedule: NoiseSchedule) -> None:
    total = schedule.alpha(EVERY_T).square() + schedule.sigma(EVERY_T).square()
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_draw_noises_both_latents_alike_and_stops_gradients(schedule: NoiseSchedule) -> None:
    z, eps = pictures(2)
    z.requires_grad_()
    t = torch.tensor([21, 499])
    draw = schedule.draw(z, z.detach() + 1, t=t, eps=eps)
    assert draw.t_prev.tolist() == [19, 497]
    assert not draw.z.requires_grad
    assert not draw.z_t.requires_grad
    expected = schedule.alpha(t).expand_as(z)
    assert torch.allclose(draw.z_source_t - draw.z_t, expected, atol=1e-6)


def test_weights_by_hand(schedule: NoiseSchedule) -> None:
    t = torch.tensor([301])
    abar = schedule.alphas_cumprod[301].item()
    snr = abar / (1 - abar)
    assert posterior_weight(schedule, t).item() == schedule.posterior_variance(t).item()
    assert noise_weight(schedule, t).item() == pytest.approx(1 - abar)
    assert unit_weight(schedule, t).item() == 1
    assert alpha_bar_squared_weight(schedule, t).item() == pytest.approx(abar**2)
    assert min_snr_weight(schedule, t).item() == pytest.approx(min(snr, 5) / snr)


def test_min_snr_weight_only_lowers_timesteps_with_little_noise(schedule: NoiseSchedule) -> None:
    weight = min_snr_weight(schedule, torch.tensor([1, 999])).flatten()
    assert weight[0] < 0.01
    assert weight[1] == 1


def test_the_double_schedule_keeps_grid_and_betas(schedule: NoiseSchedule) -> None:
    exact = schedule.double()
    assert exact.stride == schedule.stride
    assert exact.alphas_cumprod.dtype == torch.float64
    assert math.isclose(exact.alphas_cumprod[-1].item(), schedule.alphas_cumprod[-1].item(), rel_tol=1e-4)
