"""Every direction against numbers worked out apart from it; the scores are known linear functions."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from stylescore.method.directions import (
    DeltaDenoising,
    Direction,
    Normalised,
    PosteriorDistillation,
    ScoreDistillation,
    StyleMatching,
    posterior_coefficients,
)
from stylescore.method.schedule import NoiseSchedule, clean_weight, noise_weight, posterior_weight, unit_weight
from stylescore.method.scores import Scores, SeparateScores, guide
from stylescore.method.types import Draw


@dataclass
class Known:
    """Predicts slope z_t + t / 1000 and remembers where it was evaluated."""

    slope: float
    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((z_t, t))
        return self.slope * z_t + t.view(-1, 1, 1, 1) / 1000


def evaluate(direction: Direction, draw: Draw, scores: Scores) -> Tensor:
    """Return a direction from exactly the predictions it says it needs."""
    return direction(draw, scores.predict(draw, direction.needs))


@pytest.fixture
def scores() -> Scores:
    return SeparateScores({"style": Known(2.0), "fake": Known(3.0), "edit": Known(5.0), "source": Known(7.0)})


@pytest.fixture
def draw(schedule: NoiseSchedule) -> Draw:
    rng = torch.Generator().manual_seed(0)
    z, z_source, eps = torch.randn(3, 2, 4, 3, 2, generator=rng, dtype=torch.float64)
    return schedule.double().draw(z, z_source, t=torch.tensor([101, 499]), eps=eps)


def asked(scores: Scores) -> dict[str, list[str]]:
    """Return which latent each score was evaluated at, by name."""
    return {
        name: [str(list(z_t.shape)) for z_t, _ in scores[name].asked]
        for name in ("style", "fake", "edit", "source")
        if scores[name].asked
    }


def test_style_matching_subtracts_the_fake_score(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    found = evaluate(StyleMatching(schedule.double(), posterior_weight), draw, scores)
    weight = schedule.double().posterior_variance(draw.t)
    assert torch.allclose(found, weight * (2.0 - 3.0) * draw.z_t)
    assert set(asked(scores)) == {"style", "fake"}


def test_score_distillation_subtracts_the_drawn_noise(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    found = evaluate(ScoreDistillation(schedule.double(), noise_weight), draw, scores)
    one_minus_abar = 1 - schedule.double().alphas_cumprod[draw.t].view(-1, 1, 1, 1)
    expected = one_minus_abar * (2.0 * draw.z_t + draw.t.view(-1, 1, 1, 1) / 1000 - draw.eps)
    assert torch.allclose(found, expected)
    assert set(asked(scores)) == {"style"}


def test_delta_denoising_subtracts_the_source_half(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    found = evaluate(DeltaDenoising(schedule.double(), unit_weight), draw, scores)
    assert torch.allclose(found, 2.0 * draw.z_t - 7.0 * draw.z_source_t)
    assert set(asked(scores)) == {"style", "source"}


def test_every_score_is_evaluated_at_its_own_latent(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    evaluate(StyleMatching(schedule, posterior_weight), draw, scores)
    evaluate(PosteriorDistillation(schedule), draw, scores)
    for score, latent in ((scores["style"], draw.z_t), (scores["fake"], draw.z_t), (scores["source"], draw.z_source_t)):
        for z_t, t in score.asked:
            assert z_t is latent
            assert torch.equal(t, draw.t)


def stochastic_latent(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, eps_hat: Tensor, eps_prev: Tensor, t: int
) -> Tensor:
    """Return (x_prev - mu) / sigma as the two-noise formula of Posterior Distillation Sampling has it."""
    abar, beta, prev = schedule.alphas_cumprod, schedule.betas[t], t - schedule.stride
    x0_hat = (x_t - (1 - abar[t]).sqrt() * eps_hat) / abar[t].sqrt()
    c0 = abar[prev].sqrt() * beta / (1 - abar[t])
    c1 = (1 - beta).sqrt() * (1 - abar[prev]) / (1 - abar[t])
    sigma = ((1 - abar[prev]) / (1 - abar[t]) * beta).sqrt()
    x_prev = abar[prev].sqrt() * x0 + (1 - abar[prev]).sqrt() * eps_prev
    return (x_prev - c0 * x0_hat - c1 * x_t) / sigma


def test_posterior_distillation_equals_its_two_noise_form(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    exact = schedule.double()
    found = evaluate(PosteriorDistillation(exact), draw, scores)
    eps_hat, eps_hat_source = scores["style"](draw.z_t, draw.t), scores["source"](draw.z_source_t, draw.t)
    eps_prev = torch.randn(found.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for n, t in enumerate(draw.t.tolist()):
        target = stochastic_latent(exact, draw.z[n], draw.z_t[n], eps_hat[n], eps_prev[n], t)
        source = stochastic_latent(exact, draw.z_source[n], draw.z_source_t[n], eps_hat_source[n], eps_prev[n], t)
        assert torch.allclose(found[n], target - source, rtol=1e-9, atol=1e-12)


COEFFICIENTS = [
    (21, 1.613, 0.232),
    (101, 0.314, 0.115),
    (201, 0.140, 0.092),
    (301, 0.079, 0.084),
    (401, 0.049, 0.081),
    (499, 0.032, 0.082),
    (601, 0.021, 0.085),
    (801, 0.0096, 0.096),
    (979, 0.0042, 0.110),
]


@pytest.mark.parametrize(("t", "psi", "chi"), COEFFICIENTS)
def test_posterior_coefficients_on_the_grid_of_500(schedule: NoiseSchedule, t: int, psi: float, chi: float) -> None:
    found_psi, found_chi = posterior_coefficients(schedule, torch.tensor([t]))
    assert found_psi.item() == pytest.approx(psi, abs=0.00051 if psi > 0.01 else 0.000051)
    assert found_chi.item() == pytest.approx(chi, abs=0.00051)


def test_psi_vanishes_for_single_steps(schedule: NoiseSchedule) -> None:
    t = torch.arange(2, 1000)
    psi, chi = posterior_coefficients(NoiseSchedule(schedule.betas, stride=1), t)
    assert psi.abs().max() < 1e-9
    assert chi.min() > 0.05


def test_guidance_extrapolates_from_the_unconditional_prediction() -> None:
    eps_c, eps_u = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    assert [guide(eps_c, eps_u, s).item() for s in (0.0, 1.0, 4.5)] == [1.0, 3.0, 10.0]


def test_the_anchor_mixes_the_drawn_noise_into_the_fake_score(
    schedule: NoiseSchedule, draw: Draw, scores: Scores
) -> None:
    found = evaluate(StyleMatching(schedule.double(), unit_weight, anchor=0.25), draw, scores)
    time = draw.t.view(-1, 1, 1, 1) / 1000
    assert torch.allclose(found, 2.0 * draw.z_t + time - (0.75 * (3.0 * draw.z_t + time) + 0.25 * draw.eps))


def test_the_clean_weight_turns_noise_into_clean_latents(schedule: NoiseSchedule, draw: Draw, scores: Scores) -> None:
    exact = schedule.double()
    found = evaluate(StyleMatching(exact, clean_weight), draw, scores)
    style, fake = (
        exact.to_clean(score(draw.z_t, draw.t), draw.z_t, draw.t) for score in (scores["style"], scores["fake"])
    )
    assert torch.allclose(found, fake - style)


def test_the_normalised_direction_by_hand_evaluates_each_score_once(
    schedule: NoiseSchedule, draw: Draw, scores: Scores
) -> None:
    exact = schedule.double()
    found = evaluate(Normalised(StyleMatching(exact, clean_weight), exact), draw, scores)
    assert [len(score.asked) for score in (scores["style"], scores["fake"])] == [1, 1]
    style, fake = (
        exact.to_clean(score(draw.z_t, draw.t), draw.z_t, draw.t) for score in (scores["style"], scores["fake"])
    )
    for n in range(len(draw.t)):
        assert torch.allclose(found[n], (fake - style)[n] / (draw.z - style)[n].abs().mean())


@pytest.mark.parametrize("unit", [0.1, 30.0])
def test_the_normalised_step_does_not_depend_on_the_latents_unit(schedule: NoiseSchedule, unit: float) -> None:
    """In another unit the predictions of the clean latent grow with it; the step, in parts of a mean way, does not."""
    exact, t = schedule.double(), torch.tensor([101, 499])
    rng = torch.Generator().manual_seed(0)
    z, style, fake, eps = torch.randn(4, 2, 4, 3, 2, generator=rng, dtype=torch.float64)

    def step(factor: float) -> Tensor:
        draw = exact.draw(factor * z, factor * z, t=t, eps=eps)
        asked = [lambda z_t, t, clean=c: exact.to_eps(factor * clean, "sample", z_t, t) for c in (style, fake)]
        scores = SeparateScores({"style": asked[0], "fake": asked[1], "edit": Known(1.0), "source": Known(1.0)})
        return evaluate(Normalised(StyleMatching(exact, clean_weight), exact), draw, scores)

    assert torch.allclose(step(unit), step(1.0), rtol=1e-6)
