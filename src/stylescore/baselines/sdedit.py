"""SDEdit: adds noise to the photo's latents and denoises them with the style model.

Sources: "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022, section 3;
"Denoising Diffusion Implicit Models", ICLR 2021, equation 12 with sigma = 0.

As an objective it runs in the loop of the other methods, which logs, interrupts and resumes it: its direction leads
from the noised latent to that of the next timestep, and plain gradient descent takes it whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch

from stylescore.errors import ConfigError
from stylescore.method.objective import Objective
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor, Predictions, ScoreName, SeparateScores
from stylescore.method.types import Draw, Latent, Noise, Rng, Timesteps


def sampling_timesteps(length: int, strength: float, steps: int) -> list[int]:
    """Return the timesteps of the sampler, from the first one down to -1, where no noise is left.

    Args:
        length: number of the model's timesteps.
        strength: fraction of them to start at, in [0, 1].
        steps: number of steps, at least 1; fewer are returned where steps would be shorter than one timestep.

    Raises:
        ConfigError: a number is outside its range.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(
            f"strength must be from 0 to 1, not {strength}", hint="values from 0.3 to 0.7 keep some content"
        )
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, not {steps}", hint="25 are enough for most models")
    start = round(strength * length) - 1
    times = torch.linspace(start, -1, steps + 1, dtype=torch.float64).round().long()
    return sorted(set(times.tolist()), reverse=True)


def sampling_steps(length: int, strength: float, steps: int) -> int:
    """Return how many steps there are; at strength 0 there is none."""
    return len(sampling_timesteps(length, strength, steps)) - 1


def ddim_step(z_t: Latent, eps: Noise, t: Timesteps, t_next: Timesteps, schedule: NoiseSchedule) -> Latent:
    """Return z at t_next: the clean latent that eps implies, with the same eps added again.

    The step is deterministic; to a later timestep it inverts the one back, up to the change of eps between the two.
    """
    return schedule.add_noise(schedule.to_clean(eps, z_t, t), eps, t_next)


@dataclass(frozen=True)
class ListedTimesteps:
    """The timesteps of a sampler in their order, the same for every picture.

    Attributes:
        times: from the first one down to -1, which no step is taken at.
    """

    times: Sequence[int]

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Return the timestep of the step that a run has come to; nothing is drawn."""
        step = round(progress * (len(self.times) - 1))
        return torch.full((len(rng),), self.times[step])

    def after(self, t: Timesteps) -> Timesteps:
        """Return the timesteps that follow."""
        following = dict(pairwise(self.times))
        return torch.tensor([following[each] for each in t.tolist()], device=t.device)


@dataclass(frozen=True)
class ToNextTimestep:
    """What leads from a noised latent to that of the next timestep: z - z_next.

    Attributes:
        schedule: noise schedule of the diffusion model.
        timesteps: the sampler's timesteps.
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ("style",)
    schedule: NoiseSchedule
    timesteps: ListedTimesteps

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the difference that a step of plain gradient descent takes off."""
        t_next = self.timesteps.after(draw.t)
        return draw.z - ddim_step(draw.z_t, eps["style"], draw.t, t_next, self.schedule)


@dataclass(frozen=True, kw_only=True)
class Sampling(Objective):
    """An objective whose latent is a noised one: it is made for the first step, and no noise is drawn after it.

    Attributes:
        start: the latent that the first step is taken from; `None` adds drawn noise to the source.
    """

    start: Latent | None = None

    def draw(self, z: Latent, z_source: Latent, *, progress: float, rng: Rng) -> Draw:
        """Return the noised latent at the run's beginning, then the latent as it is."""
        t = self.timesteps(progress, rng).to(z.device)
        is_first = progress == 0
        eps = self.noise(z, rng) if is_first and self.start is None else torch.zeros_like(z)
        draw = self.schedule.draw(z, z_source, t=t, eps=eps)
        if not is_first:
            return replace(draw, z_t=draw.z)
        return draw if self.start is None else replace(draw, z_t=self.start)


def sampling_objective(schedule: NoiseSchedule, *, strength: float, steps: int) -> Sampling:
    """Return deterministic denoising as an objective, for `sampling_steps` iterations of plain gradient descent.

    It is SDEdit if it begins with the noised source.
    """
    timesteps = ListedTimesteps(sampling_timesteps(len(schedule.betas), strength, steps))
    return Sampling(schedule=schedule, timesteps=timesteps, direction=ToNextTimestep(schedule, timesteps))


@torch.no_grad()
def sdedit(
    score: NoisePredictor, schedule: NoiseSchedule, z_source: Latent, *, strength: float, steps: int = 25, rng: Rng
) -> Latent:
    """Edit latents with SDEdit, in the steps of `sampling_objective`; the added noise is the only random draw.

    Args:
        score: the style score, with guidance.
        schedule: noise schedule of the model.
        z_source: latents of the photos, [batch, c, h, w].
        strength: amount of noise, as a fraction of the model's timesteps; 0 returns the source.
        steps: number of steps of the deterministic sampler.
        rng: one CPU generator for each picture.

    Raises:
        ConfigError: strength or steps outside its range.
    """
    objective, scores = sampling_objective(schedule, strength=strength, steps=steps), SeparateScores({"style": score})
    z, length = z_source, sampling_steps(len(schedule.betas), strength, steps)
    for step in range(length):
        draw = objective.draw(z, z_source, progress=step / length, rng=rng)
        z = z - objective.direction(draw, scores.predict(draw, objective.needs))
    return z
