"""SDEdit: adds noise to the photo's latents and denoises them with the style model.

Sources: "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022, section 3;
"Denoising Diffusion Implicit Models", ICLR 2021, equation 12 with sigma = 0.

A `Fitting` has all that it takes: `fitting.scores.style`, `fitting.objective.schedule`, and the source's latents from
`fitting.subject.draw`.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from stylescore.errors import ConfigError
from stylescore.method.objective import gaussian
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor
from stylescore.method.types import Latent, Rng, Timesteps


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


def ddim_step(z_t: Latent, t: Timesteps, t_next: Timesteps, score: NoisePredictor, schedule: NoiseSchedule) -> Latent:
    """Return z at t_next: the predicted clean latent with the predicted noise added again."""
    eps = score(z_t, t)
    return schedule.add_noise(schedule.to_clean(eps, z_t, t), eps, t_next)


@torch.no_grad()
def sdedit(
    score: NoisePredictor, schedule: NoiseSchedule, z_source: Latent, *, strength: float, steps: int = 25, rng: Rng
) -> Latent:
    """Edit latents with SDEdit; the added noise is the only random draw.

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
    times = sampling_timesteps(len(schedule.betas), strength, steps)
    if len(times) < 2:
        return z_source
    timesteps = [torch.full((len(z_source),), t, device=z_source.device) for t in times]
    z_t = schedule.add_noise(z_source, gaussian(z_source, rng), timesteps[0])
    for t, t_next in pairwise(timesteps):
        z_t = ddim_step(z_t, t, t_next, score, schedule)
    return z_t
