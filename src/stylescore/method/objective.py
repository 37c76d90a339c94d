"""One step of a method, composed of a direction, a relevance map and a regulariser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, get_args

import torch
from torch import Tensor

from stylescore.method.directions import (
    DeltaDenoising,
    Direction,
    PosteriorDistillation,
    ScoreDistillation,
    StyleMatching,
)
from stylescore.method.relevance import Relevance, UniformRelevance
from stylescore.method.schedule import (
    NoiseSchedule,
    Weight,
    noise_weight,
    posterior_weight,
    unit_weight,
)
from stylescore.method.scores import Predictions, ScoreName, Scores
from stylescore.method.spectrum import SpectrumLoss, no_spectrum
from stylescore.method.timesteps import TimestepSampler
from stylescore.method.types import Draw, Latent, Noise, PerSample, Rng, Step


class NoiseSampler(Protocol):
    """Draws the noise of a step."""

    def __call__(self, like: Tensor, rng: Rng) -> Noise:
        """Return noise shaped like `like`, sample n drawn from generator n."""
        ...


def gaussian(like: Tensor, rng: Rng) -> Noise:
    """Draw standard normal noise on the CPU, one generator per sample, and move it to `like`."""
    draws = [torch.randn(like.shape[1:], generator=generator) for generator in rng]
    return torch.stack(draws).to(like)


def stream(rng: Rng, number: int) -> Rng:
    """Return fresh generators that follow from the seeds of `rng`: their draws change none of the run's own.

    A resumed run has the same ones, whatever its generators have drawn. 1 is for maps, 2 for the noise of a run.
    """
    return [torch.Generator().manual_seed((generator.initial_seed() + number) % 2**63) for generator in rng]


def run_noise(like: Tensor, rng: Rng) -> Noise:
    """Return the noise of a run, eps_run, shaped like `like`; it follows from the seeds of `rng` alone."""
    return gaussian(like, stream(rng, 2))


@dataclass(frozen=True)
class ConsistentNoise:
    """Noise of which a fraction is the same throughout a run: sqrt(f) eps_run + sqrt(1 - f) eps.

    eps_run follows from the seed of each sample's generator, so it needs no state and does not depend on the batch. It
    gives strokes a place to grow from, where fresh noise alone averages them away.

    Attributes:
        share: f in [0, 1].
    """

    share: float

    def __call__(self, like: Tensor, rng: Rng) -> Noise:
        """Draw eps from `rng` and mix it with the run's own noise."""
        fresh = gaussian(like, rng)
        if self.share == 0:
            return fresh
        fixed = run_noise(like, rng)
        return math.sqrt(self.share) * fixed + math.sqrt(1 - self.share) * fresh


def surrogate(z: Latent, gradient: Latent) -> PerSample:
    """1/2 mean (z - stopgrad(z - g))^2: its value is half g's mean square, its gradient g / numel."""
    target = (z - gradient).detach()
    return 0.5 * (z - target).square().flatten(1).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A score-distillation objective.

    Attributes:
        schedule: noise schedule of the diffusion model.
        timesteps: sampler of the step's timesteps.
        direction: what is subtracted from the latent.
        relevance: where, as a map in [0, 1].
        spectrum: regulariser towards the source.
        noise: source of the step's noise.
    """

    schedule: NoiseSchedule
    timesteps: TimestepSampler
    direction: Direction
    relevance: Relevance = field(default_factory=UniformRelevance)
    spectrum: SpectrumLoss = no_spectrum
    noise: NoiseSampler = gaussian

    @property
    def needs(self) -> tuple[ScoreName, ...]:
        """The scores that a step evaluates, in the order of `ScoreName`."""
        return tuple(name for name in get_args(ScoreName) if name in (*self.direction.needs, *self.relevance.needs))

    def __call__(self, z: Latent, z_source: Latent, scores: Scores, *, progress: float, rng: Rng) -> Step:
        """Take one step.

        Args:
            z: the current latent; `Step.loss` is differentiable with respect to it.
            z_source: the source's latent, same shape.
            scores: the scores to evaluate.
            progress: part of the run that is over, in [0, 1).
            rng: one CPU generator per sample; timesteps are drawn first, then noise.
        """
        return self.at(self.draw(z, z_source, progress=progress, rng=rng), z, scores)

    def draw(self, z: Latent, z_source: Latent, *, progress: float, rng: Rng) -> Draw:
        """Draw the step's timesteps, then its noise."""
        t = self.timesteps(progress, rng).to(z.device)
        return self.schedule.draw(z, z_source, t=t, eps=self.noise(z, rng))

    def at(self, draw: Draw, z: Latent, scores: Scores, known: Predictions = MappingProxyType({})) -> Step:
        """Take the step at a draw made from z; a prediction that is known already is not made again."""
        with torch.no_grad():
            missing = [name for name in self.needs if name not in known]
            eps = {**known, **scores.predict(draw, missing)}
            relevance = self.relevance(draw, eps)
            gradient = self.direction(draw, eps) * relevance
        score_loss = surrogate(z, gradient)
        spectrum_loss = self.spectrum(z, draw.z_source, draw.t)
        return Step(
            t=draw.t,
            gradient=gradient,
            relevance=relevance,
            score_loss=score_loss.detach(),
            spectrum_loss=spectrum_loss.detach(),
            loss=score_loss + spectrum_loss,
        )


def sms(
    schedule: NoiseSchedule,
    timesteps: TimestepSampler,
    *,
    relevance: Relevance,
    spectrum: SpectrumLoss,
    weight: Weight = posterior_weight,
    noise: NoiseSampler = gaussian,
    anchor: float = 0.0,
) -> Objective:
    """Style Matching Score: style minus fake, refined by relevance, held by the spectrum."""
    return Objective(
        schedule=schedule,
        timesteps=timesteps,
        direction=StyleMatching(schedule, weight, anchor),
        relevance=relevance,
        spectrum=spectrum,
        noise=noise,
    )


def vsd(
    schedule: NoiseSchedule, timesteps: TimestepSampler, *, weight: Weight = noise_weight, anchor: float = 0.0
) -> Objective:
    """Variational Score Distillation: style minus fake, everywhere, with nothing held."""
    return sms(schedule, timesteps, relevance=UniformRelevance(), spectrum=no_spectrum, weight=weight, anchor=anchor)


def sds(schedule: NoiseSchedule, timesteps: TimestepSampler, *, weight: Weight = noise_weight) -> Objective:
    """Score Distillation Sampling: style minus the drawn noise."""
    return Objective(schedule=schedule, timesteps=timesteps, direction=ScoreDistillation(schedule, weight))


def dds(schedule: NoiseSchedule, timesteps: TimestepSampler, *, weight: Weight = unit_weight) -> Objective:
    """Delta Denoising Score: style minus the plain model's prediction on the source."""
    return Objective(schedule=schedule, timesteps=timesteps, direction=DeltaDenoising(schedule, weight))


def pds(schedule: NoiseSchedule, timesteps: TimestepSampler) -> Objective:
    """Posterior Distillation Sampling: the difference of the stochastic latents."""
    return Objective(schedule=schedule, timesteps=timesteps, direction=PosteriorDistillation(schedule))
