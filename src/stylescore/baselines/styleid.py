"""StyleID: a photo and a style picture are inverted, and denoising reads the style in its self-attention.

Source: "Style Injection in Diffusion: A Training-free Approach for Adapting Large-scale Diffusion Models for Style
Transfer", CVPR 2024; DDIM inversion as in "Denoising Diffusion Implicit Models", ICLR 2021, section 4.3. The attention
is in `diffusion.injection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.baselines.sdedit import ListedTimesteps, Sampling, ddim_step
from stylescore.method.objective import Objective
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor
from stylescore.method.types import Latent

SMALLEST_VARIANCE = 1e-5
"""Is added to variances, as in AdaIN's code: it keeps a channel that is the same everywhere finite."""


@torch.no_grad()
def invert(score: NoisePredictor, schedule: NoiseSchedule, z: Latent, times: Sequence[int]) -> Mapping[int, Latent]:
    """Return the latents that deterministic denoising would have come from, by timestep.

    Args:
        score: predicts the noise.
        schedule: noise schedule of the model.
        z: clean latents, [batch, c, h, w].
        times: the sampler's timesteps from the first one down to -1, where z is.
    """
    found: dict[int, Latent] = {}
    for before, after in pairwise(reversed(times)):
        t, t_next = (torch.full((len(z),), each, device=z.device) for each in (before, after))
        z = ddim_step(z, score(z, t_next), t, t_next, schedule)
        found[after] = z
    return found


def match_statistics(content: Latent, style: Float[Tensor, "_pictures channels _height _width"]) -> Latent:
    """Return the content's latents or features with mean and deviation of the style's in every channel (AdaIN).

    Args:
        content: [batch, c, h, w].
        style: of any size, one for each picture or one for all.
    """
    mean, deviation = _statistics(content)
    target, spread = _statistics(style)
    return spread * (content - mean) / deviation + target


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every channel, [n, c, 1, 1]."""
    return x.mean(dim=(-2, -1), keepdim=True), (x.var(dim=(-2, -1), keepdim=True) + SMALLEST_VARIANCE).sqrt()


def times_of(objective: Objective) -> list[int]:
    """Return the timesteps of a denoising objective, down to -1."""
    assert isinstance(objective.timesteps, ListedTimesteps)
    return list(objective.timesteps.times)


def begin_at(objective: Objective, latents: Latent) -> Objective:
    """Return a denoising objective that begins at latents instead of the noised source."""
    assert isinstance(objective, Sampling)
    return replace(objective, start=latents)
