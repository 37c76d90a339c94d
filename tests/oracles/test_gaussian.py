"""Gaussian oracle: where style and cloud are Gaussians, both scores are one line each and the end is known.

The generator is a cloud of 4096 points in the plane, held as 16 latents of 2 channels and 16 x 16 cells: the
channels are the coordinates. The style is a Gaussian with another mean and width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from stylescore.diffusion.predictions import RectifiedFlow
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting, fit
from stylescore.method.objective import Objective, sds, sms, vsd
from stylescore.method.relevance import UniformRelevance
from stylescore.method.schedule import NoiseSchedule, Weight, clean_weight, noise_weight
from stylescore.method.scores import NoisePredictor, Predictions, SeparateScores
from stylescore.method.spectrum import no_spectrum
from stylescore.method.subjects import LatentSubject
from stylescore.method.timesteps import Grid, Narrowing, Uniform
from stylescore.method.types import Draw, PredictionType

MEAN = torch.tensor([2.0, -1.0])
STD = torch.tensor([0.3, 0.6])
SHAPE = (16, 2, 16, 16)
WIDE = Uniform(Grid(t_min=21, t_max=979))
UNIFORM = Uniform(Grid(t_min=21, t_max=499))
NARROWING = Narrowing(Grid(t_min=21, t_max=499))


def per_channel(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like).view(1, -1, 1, 1)


def gaussian_eps(schedule: NoiseSchedule, z_t: Tensor, t: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return E[eps | z_t] for z ~ N(mean, std^2), channel by channel."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    variance = (alpha * per_channel(std, z_t)).square() + sigma.square()
    return sigma * (z_t - alpha * per_channel(mean, z_t)) / variance


@dataclass(frozen=True)
class StyleScore:
    """The exact score of the style, predicted as a network of the given kind would and converted back."""

    schedule: NoiseSchedule
    kind: PredictionType = "epsilon"

    def output(self, z_t: Tensor, t: Tensor) -> Tensor:
        """Return noise, v = alpha eps - sigma z, or the clean z, in expectation given z_t."""
        eps = gaussian_eps(self.schedule, z_t, t, MEAN, STD)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        mean, std = per_channel(MEAN, z_t), per_channel(STD, z_t)
        gain = alpha * std.square() / ((alpha * std).square() + sigma.square())
        clean = mean + gain * (z_t - alpha * mean)
        return {"epsilon": eps, "v_prediction": alpha * eps - sigma * clean, "sample": clean}[self.kind]

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        return self.schedule.to_eps(self.output(z_t, t), self.kind, z_t, t)


@dataclass(frozen=True)
class FlowScore:
    """The exact velocity field of a rectified flow to a Gaussian, asked and converted as a flow model is.

    Attributes:
        prediction: the border between the schedule's (z_t, t) and the flow's (x_s, s).
        mean: of the Gaussian, by channel.
        std: its standard deviation, by channel.
    """

    prediction: RectifiedFlow
    mean: Tensor = MEAN
    std: Tensor = STD

    def velocity(self, x_s: Tensor, s: Tensor) -> Tensor:
        """Return E[eps - x_0 | x_s] for x_s = (1 - s) x_0 + s eps; it knows no schedule."""
        mean, std, s = per_channel(self.mean, x_s), per_channel(self.std, x_s), s.view(-1, 1, 1, 1)
        centred = (x_s - (1 - s) * mean) / (((1 - s) * std).square() + s.square())
        return s * centred - (mean + (1 - s) * std.square() * centred)

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        return self.prediction.noise(self.velocity(*self.prediction.asked(z_t, t)), z_t, t)


@dataclass(frozen=True)
class IdealFake:
    """The exact score of a Gaussian with the cloud's own moments at this step."""

    schedule: NoiseSchedule
    cloud: LatentSubject

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        points = self.cloud.render().transpose(0, 1).flatten(1)
        return gaussian_eps(self.schedule, z_t, t, points.mean(dim=1), points.std(dim=1))


class LearnedFake(nn.Module):
    """A noise predictor, affine in z_t, that must find the cloud's moments by denoising alone."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.mean = nn.Parameter(torch.zeros(2))
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        return gaussian_eps(self.schedule, z_t, t, self.mean, self.log_std.exp())


def never(z_t: Tensor, t: Tensor) -> Tensor:
    raise AssertionError("this score must not be evaluated")


class Nowhere(UniformRelevance):
    def __call__(self, draw: Draw, eps: Predictions) -> Tensor:
        return 0 * super().__call__(draw, eps)


def cloud() -> LatentSubject:
    points = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return LatentSubject.at(points)


def run(
    objective: Objective,
    subject: LatentSubject,
    style: NoisePredictor,
    fake: NoisePredictor,
    training: FakeScore | None = None,
    iterations: int = 300,
    shared: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fit the cloud with Adam at 0.08, falling to zero; return its mean and standard deviation by channel."""
    fitting = Fitting(
        subject=subject,
        objective=objective,
        scores=SeparateScores({"style": style, "fake": fake}),
        optimiser=torch.optim.Adam(subject.parameters()),
        learning_rate=lambda i: 0.08 * (1 + math.cos(math.pi * i / iterations)) / 2,
        fake=training,
        rng=[torch.Generator().manual_seed(seed) for seed in range(len(subject.z))],
        iterations=iterations,
        shared=shared,
    )
    for _ in fit(fitting):
        pass
    points = subject.render().transpose(0, 1).flatten(1)
    return points.mean(dim=1), points.std(dim=1)


def plain_sms(schedule: NoiseSchedule) -> Objective:
    return sms(schedule, NARROWING, relevance=UniformRelevance(), spectrum=no_spectrum)


def plain_vsd(schedule: NoiseSchedule) -> Objective:
    return vsd(schedule, UNIFORM)


@pytest.mark.parametrize("make", [plain_sms, plain_vsd])
def test_style_minus_fake_reaches_mean_and_width_of_the_style(
    schedule: NoiseSchedule, make: Callable[[NoiseSchedule], Objective]
) -> None:
    subject = cloud()
    mean, std = run(make(schedule), subject, StyleScore(schedule), IdealFake(schedule, subject))
    assert torch.allclose(mean, MEAN, rtol=0.02, atol=0)
    assert torch.allclose(std, STD, rtol=0.02, atol=0)


def test_score_distillation_collapses_onto_the_mean(schedule: NoiseSchedule) -> None:
    mean, std = run(sds(schedule, WIDE), cloud(), StyleScore(schedule), never)
    assert torch.allclose(mean, MEAN, atol=0.1)
    assert bool((std < 0.5 * STD).all())


@pytest.mark.parametrize("shared", [False, True])
def test_a_fake_score_trained_by_the_loop_does_as_well(schedule: NoiseSchedule, shared: bool) -> None:
    subject, fake = cloud(), LearnedFake(schedule)
    training = FakeScore(
        predictor=fake,
        parameters=tuple(fake.parameters()),
        optimiser=torch.optim.Adam(fake.parameters(), lr=0.03),
        schedule=schedule,
        timesteps=UNIFORM,
    )
    mean, std = run(plain_vsd(schedule), subject, StyleScore(schedule), fake, training, 600, shared)
    assert torch.allclose(mean, MEAN, rtol=0.1, atol=0)
    assert torch.allclose(std, STD, rtol=0.1, atol=0)
    assert torch.allclose(fake.mean, mean, atol=0.1)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_any_prediction_converts_to_the_same_noise(schedule: NoiseSchedule, kind: PredictionType) -> None:
    exact = schedule.double()
    t = torch.arange(1, 1000)
    z_t = torch.randn(999, 2, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    converted = StyleScore(exact, kind)(z_t, t)
    assert torch.allclose(converted, StyleScore(exact)(z_t, t), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_a_model_of_another_prediction_type_reaches_the_style(schedule: NoiseSchedule, kind: PredictionType) -> None:
    subject = cloud()
    mean, std = run(plain_sms(schedule), subject, StyleScore(schedule, kind), IdealFake(schedule, subject))
    assert torch.allclose(mean, MEAN, rtol=0.02, atol=0)
    assert torch.allclose(std, STD, rtol=0.02, atol=0)


def test_an_exact_flow_converts_to_the_exact_noise(schedule: NoiseSchedule) -> None:
    exact = schedule.double()
    t = torch.arange(1, 1000)
    z_t = torch.randn(999, 2, 2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    converted = FlowScore(RectifiedFlow(exact))(z_t, t)
    assert torch.allclose(converted, StyleScore(exact)(z_t, t), rtol=1e-10, atol=1e-12)


def test_an_exact_flow_takes_the_cloud_to_the_style(schedule: NoiseSchedule) -> None:
    subject = cloud()
    style = FlowScore(RectifiedFlow(schedule))
    mean, std = run(plain_sms(schedule), subject, style, IdealFake(schedule, subject))
    assert torch.allclose(mean, MEAN, rtol=0.02, atol=0)
    assert torch.allclose(std, STD, rtol=0.02, atol=0)


def test_a_map_of_zeros_holds_the_cloud_where_it_is(schedule: NoiseSchedule) -> None:
    subject = cloud()
    held = dataclasses.replace(plain_sms(schedule), relevance=Nowhere())
    run(held, subject, StyleScore(schedule), IdealFake(schedule, subject), iterations=5)
    assert torch.equal(subject.render(), subject.z_source)


def test_a_whole_step_in_clean_units_lands_on_the_styles_posterior_mean(schedule: NoiseSchedule) -> None:
    """The exact fake score of one picture is the drawn noise: z + (D_style(z_t) - z) = E[z_0 | z_t]."""
    exact, subject = schedule.double(), LatentSubject.at(cloud().render().double())
    objective = sms(exact, WIDE, relevance=UniformRelevance(), spectrum=no_spectrum, weight=clean_weight)
    rng = [torch.Generator().manual_seed(seed) for seed in range(len(subject.z))]
    drawn = objective.draw(subject.z, subject.z_source, progress=0.0, rng=rng)
    scores = SeparateScores({"style": StyleScore(exact), "fake": lambda z_t, t: drawn.eps})
    landed = subject.z - objective.at(drawn, subject.z, scores).gradient
    assert torch.allclose(landed, StyleScore(exact, "sample").output(drawn.z_t, drawn.t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [clean_weight, noise_weight])
def test_an_anchor_of_one_is_score_distillation_to_the_bit(schedule: NoiseSchedule, weight: Weight) -> None:
    subject = cloud()
    style, fake = StyleScore(schedule), IdealFake(schedule, subject)
    anchored = run(vsd(schedule, WIDE, weight=weight, anchor=1.0), subject, style, fake, iterations=5)
    distilled = run(sds(schedule, WIDE, weight=weight), cloud(), style, never, iterations=5)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(anchored, distilled, strict=True))


def test_an_anchor_narrows_the_cloud_between_the_two_methods(schedule: NoiseSchedule) -> None:
    widths = []
    for anchor in (0.0, 0.2, 1.0):
        subject = cloud()
        objective = vsd(schedule, WIDE, anchor=anchor)
        widths.append(run(objective, subject, StyleScore(schedule), IdealFake(schedule, subject))[1].mean().item())
    assert widths == sorted(widths, reverse=True)
