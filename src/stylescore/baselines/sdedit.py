"""SDEdit: noise the photo a little and let the style model remove the noise.

Sources: "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations", ICLR 2022, section 3;
"Denoising Diffusion Implicit Models", ICLR 2021, equation 12 with sigma = 0.

A `Fitting` has all it asks for: `fitting.scores.style`, `fitting.objective.schedule` and the source's latents, which
`fitting.subject.draw` returns.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from stylescore.errors import ConfigError
from stylescore.method.objective import gaussian
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor
from stylescore.method.types import Latent, Rng, Timesteps


def descent(length: int, strength: float, steps: int) -> list[int]:
    """Return the timesteps from where the noise is put in down to -1, where none is left.

    Args:
        length: timesteps of the model.
        strength: part of them to start from, in [0, 1].
        steps: how many to take, at least 1; fewer are left where they would be shorter than one timestep.

    Raises:
        ConfigError: a number out of its range.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength must be from 0 to 1, not {strength}", hint="0.3 to 0.7 keeps some content")
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, not {steps}", hint="25 are enough for most models")
    start = round(strength * length) - 1
    times = torch.linspace(start, -1, steps + 1, dtype=torch.float64).round().long()
    return sorted(set(times.tolist()), reverse=True)


def ddim_step(z_t: Latent, t: Timesteps, t_next: Timesteps, score: NoisePredictor, schedule: NoiseSchedule) -> Latent:
    """Return z at t_next: the clean latent and the noise that z_t is predicted to hold, mixed anew."""
    eps = score(z_t, t)
    return schedule.add_noise(schedule.to_clean(eps, z_t, t), eps, t_next)


@torch.no_grad()
def sdedit(
    score: NoisePredictor, schedule: NoiseSchedule, z_source: Latent, *, strength: float, steps: int = 25, rng: Rng
) -> Latent:
    """Return latents that keep of their source what the noise leaves of it; nothing but that noise is drawn.

    Args:
        score: the style's, guided.
        schedule: noise schedule of the model.
        z_source: latents of the photos, [batch, c, h, w].
        strength: how much noise, as a part of the model's timesteps; 0 returns the source.
        steps: of the deterministic sampler.
        rng: one CPU generator per picture.

    Raises:
        ConfigError: strength or steps out of range.
    """
    times = descent(len(schedule.betas), strength, steps)
    if len(times) < 2:
        return z_source
    at = [torch.full((len(z_source),), t, device=z_source.device) for t in times]
    z_t = schedule.add_noise(z_source, gaussian(z_source, rng), at[0])
    for t, t_next in pairwise(at):
        z_t = ddim_step(z_t, t, t_next, score, schedule)
    return z_t
