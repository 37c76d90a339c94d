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

from stylescore.baselines.sdedit import ListedTimesteps, Sampling, ddim_step
from stylescore.method.objective import Objective
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor
from stylescore.method.types import Latent

SMALLEST_DEVIATION = 1e-6
"""Keeps a channel that is the same everywhere finite."""


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


def match_statistics(content: Latent, style: Latent) -> Latent:
    """Return the content's latents with mean and deviation of the style's in every channel (AdaIN)."""
    axes = (-2, -1)
    spread = content.std(dim=axes, keepdim=True).clamp(min=SMALLEST_DEVIATION)
    normal = (content - content.mean(dim=axes, keepdim=True)) / spread
    return style.std(dim=axes, keepdim=True) * normal + style.mean(dim=axes, keepdim=True)


def times_of(objective: Objective) -> list[int]:
    """Return the timesteps of a denoising objective, down to -1."""
    assert isinstance(objective.timesteps, ListedTimesteps)
    return list(objective.timesteps.times)


def begin_at(objective: Objective, latents: Latent) -> Objective:
    """Return a denoising objective that begins at latents instead of the noised source."""
    assert isinstance(objective, Sampling)
    return replace(objective, start=latents)
