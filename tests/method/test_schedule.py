import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from stylescore.method.schedule import (
    NoiseSchedule,
    OnePoint,
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


def test_an_epsilon_prediction_is_left_identity(schedule: NoiseSchedule) -> None:
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


def test_one_point_of_a_schedule_is_the_schedule_there(schedule: NoiseSchedule) -> None:
    point, t = OnePoint.of(schedule, 399), torch.tensor([399, 399])
    z, eps = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    noised = point.add_noise(z, eps, t)
    torch.testing.assert_close(noised, schedule.add_noise(z, eps, t))
    torch.testing.assert_close(point.to_clean(eps, noised, t), z)
    for kind in ("epsilon", "v_prediction", "sample"):
        torch.testing.assert_close(point.to_eps(z, kind, noised, t), schedule.to_eps(z, kind, noised, t))
    assert point.value.shape == (1, 1, 1, 1)


def test_draw_noises_both_latents_alike_and_stops_gradients(schedule: NoiseSchedule) -> None:
    z, eps = pictures(2)
    z.requires_grad_()
    t = torch.tensor([21, 499])
    draw = schedule.draw(z, z.detach() + 1, t=t, eps=eps)
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


def flow_of(schedule: NoiseSchedule) -> tuple[NoiseSchedule, Tensor, Tensor, Tensor, Tensor]:
    """Return the schedule in float64, every timestep but the first, latents, noise and the noised latents."""
    exact, rng = schedule.double(), torch.Generator().manual_seed(3)
    t = torch.arange(1, 1000)
    z, eps = (torch.randn(999, 2, 3, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    return exact, t, z, eps, exact.add_noise(z, eps, t)


def test_a_flow_is_asked_about_the_same_mixture_of_latent_and_noise(schedule: NoiseSchedule) -> None:
    exact, t, z, eps, z_t = flow_of(schedule)
    s = exact.flow_time(t)
    assert torch.allclose(exact.to_flow(z_t, t), (1 - s) * z + s * eps, rtol=0, atol=1e-14)


def test_a_flow_is_asked_at_the_signal_to_noise_ratio_of_t(schedule: NoiseSchedule) -> None:
    exact, t, *_ = flow_of(schedule)
    s, abar = exact.flow_time(t), exact.alpha_bar(t)
    assert torch.allclose(((1 - s) / s).square(), abar / (1 - abar), rtol=1e-12, atol=0)
    assert bool((s.flatten().diff() > 0).all())
    assert s.min() > 0
    assert s.max() < 1


def test_the_velocity_of_a_known_pair_gives_its_noise(schedule: NoiseSchedule) -> None:
    exact, t, z, eps, z_t = flow_of(schedule)
    assert torch.allclose(exact.velocity_to_eps(eps - z, z_t, t), eps, rtol=0, atol=1e-13)


def test_an_error_of_the_velocity_counts_by_what_is_left_of_the_latent(schedule: NoiseSchedule) -> None:
    exact, t, z, eps, z_t = flow_of(schedule)
    moved = exact.velocity_to_eps(eps - z + 1, z_t, t) - exact.velocity_to_eps(eps - z, z_t, t)
    assert torch.allclose(moved, (1 - exact.flow_time(t)).expand_as(moved), rtol=0, atol=1e-13)
