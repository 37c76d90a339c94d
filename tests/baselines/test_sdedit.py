"""SDEdit with the exact score of a Gaussian, whose deterministic map is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from stylescore.assembly.objectives import make_learning_rate, make_optimiser, with_unit_steps
from stylescore.baselines.sdedit import sampling_objective, sampling_steps, sampling_timesteps, sdedit
from stylescore.config.method import MethodConfig, SdeditConfig
from stylescore.errors import ConfigError
from stylescore.method.fit import Fitting, fit
from stylescore.method.objective import gaussian
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import SeparateScores
from stylescore.method.subjects import LatentSubject

Rngs = Callable[..., list[torch.Generator]]
MEAN, STD = 2.0, 0.3


@dataclass(frozen=True)
class GaussianScore:
    """E[eps | z_t] for z ~ N(mean, std^2) in every cell."""

    schedule: NoiseSchedule
    std: float = STD

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * (z_t - alpha * MEAN) / ((alpha * self.std).square() + sigma.square())


def source(batch: int = 2, height: int = 6, width: int = 9) -> Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(5))


def noised(schedule: NoiseSchedule, z: Tensor, t: int, rng: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
    """Return z_t with alpha and sigma."""
    at = torch.full((len(z),), t)
    return schedule.add_noise(z, gaussian(z, rng), at), schedule.alpha(at), schedule.sigma(at)


def test_many_steps_follow_the_gaussians_probability_flow(schedule: NoiseSchedule, rngs: Rngs) -> None:
    """The flow keeps (z_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2); the error falls with the step's length."""
    z = source()
    z_t, alpha, sigma = noised(schedule, z, 599, rngs(1, 2))
    truth = MEAN + STD * (z_t - alpha * MEAN) / ((alpha * STD).square() + sigma.square()).sqrt()
    score = GaussianScore(schedule)
    coarse, fine = (sdedit(score, schedule, z, strength=0.6, steps=steps, rng=rngs(1, 2)) for steps in (60, 600))
    assert float((fine - truth).abs().max()) < 0.02
    assert 5 * float((fine - truth).abs().max()) < float((coarse - truth).abs().max())


def test_one_step_gives_the_mean_of_what_the_noised_point_can_have_been(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z = source()
    z_t, alpha, sigma = noised(schedule, z, 449, rngs(1, 2))
    gain = alpha * STD**2 / ((alpha * STD).square() + sigma.square())
    found = sdedit(GaussianScore(schedule), schedule, z, strength=0.45, steps=1, rng=rngs(1, 2))
    assert torch.allclose(found, MEAN + gain * (z_t - alpha * MEAN), atol=1e-5)


def test_a_style_of_one_picture_gives_that_picture(schedule: NoiseSchedule, rngs: Rngs) -> None:
    score = GaussianScore(schedule, std=0.0)
    found = sdedit(score, schedule, source(), strength=0.7, steps=7, rng=rngs(1, 2))
    assert torch.allclose(found, torch.full_like(found, MEAN), atol=1e-4)


def test_no_strength_returns_the_source_and_little_strength_stays_close(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, score = source(), GaussianScore(schedule, std=1.0)
    assert torch.equal(sdedit(score, schedule, z, strength=0, rng=rngs(1, 2)), z)
    distances = [
        float((sdedit(score, schedule, z, strength=s, rng=rngs(1, 2)) - z).abs().mean()) for s in (0.001, 0.1, 0.5)
    ]
    assert distances[0] < 0.05
    assert distances == sorted(distances)


def test_a_batch_equals_its_pictures_one_by_one(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, score = source(3, 5, 8), GaussianScore(schedule)
    together = sdedit(score, schedule, z, strength=0.5, steps=5, rng=rngs(1, 2, 3))
    alone = [sdedit(score, schedule, z[n : n + 1], strength=0.5, steps=5, rng=rngs(n + 1)) for n in range(3)]
    assert torch.allclose(together, torch.cat(alone))


def test_the_seed_decides(schedule: NoiseSchedule, rngs: Rngs) -> None:
    def result(seed: int) -> Tensor:
        return sdedit(GaussianScore(schedule), schedule, source(1), strength=0.5, steps=5, rng=rngs(seed))

    assert torch.equal(result(1), result(1))
    assert not torch.equal(result(1), result(2))


def test_the_way_down_starts_at_the_strength_and_ends_without_noise() -> None:
    assert sampling_timesteps(1000, 0.5, 5) == [499, 399, 299, 199, 99, -1]
    assert sampling_timesteps(1000, 1, 1) == [999, -1]
    assert sampling_timesteps(1000, 0, 5) == [-1]
    assert sampling_timesteps(1000, 0.003, 25) == [2, 1, 0, -1]


def test_it_asks_the_score_once_a_step(schedule: NoiseSchedule, rngs: Rngs) -> None:
    asked: list[list[int]] = []

    def score(z_t: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return torch.zeros_like(z_t)

    sdedit(score, schedule, source(), strength=0.5, steps=5, rng=rngs(1, 2))
    assert asked == [[t, t] for t in (499, 399, 299, 199, 99)]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"from 0 to 1, not 1\.2"):
        sampling_timesteps(1000, 1.2, 5)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        sampling_timesteps(1000, 0.5, 0)


def fitting(schedule: NoiseSchedule, strength: float, steps: int, rng: list[torch.Generator]) -> Fitting:
    """Return SDEdit as a run of the loop."""
    given = MethodConfig(method="sdedit", iterations=steps, sdedit=SdeditConfig(strength=strength))
    method, subject = with_unit_steps(given, len(schedule.betas)), LatentSubject.at(source(len(rng)))
    return Fitting(
        subject=subject,
        objective=sampling_objective(schedule, strength=strength, steps=steps),
        scores=SeparateScores({"style": GaussianScore(schedule)}),
        optimiser=make_optimiser(method.optimiser, subject.parameters()),
        learning_rate=make_learning_rate(method.optimiser, method.iterations, subject.z[0].numel()),
        fake=None,
        rng=rng,
        iterations=method.iterations,
    )


@pytest.mark.parametrize(("strength", "steps"), [(0.6, 7), (1.0, 20), (0.003, 25)])
def test_the_loop_takes_the_same_steps(schedule: NoiseSchedule, rngs: Rngs, strength: float, steps: int) -> None:
    run = fitting(schedule, strength, steps, rngs(1, 2))
    times = sampling_timesteps(1000, strength, steps)
    assert [iteration.step.t.tolist() for iteration in fit(run)] == [[t, t] for t in times[:-1]]
    wanted = sdedit(GaussianScore(schedule), schedule, source(), strength=strength, steps=steps, rng=rngs(1, 2))
    assert torch.allclose(run.subject.render(), wanted, atol=1e-4)


def test_the_loop_takes_no_step_without_strength(schedule: NoiseSchedule, rngs: Rngs) -> None:
    run = fitting(schedule, 0.0, 25, rngs(1, 2))
    assert sampling_steps(1000, 0.0, 25) == len(list(fit(run))) == 0
    assert torch.equal(run.subject.render(), source())
