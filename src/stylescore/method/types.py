"""Named tensor shapes and the records that travel through one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, Int
from torch import Generator, Tensor

Latent = Float[Tensor, "batch channels height width"]
"""A batch of encoder latents, scaled to the diffusion model's unit."""
Noise = Float[Tensor, "batch channels height width"]
"""Noise, or a prediction of it, shaped like the latent."""
Map = Float[Tensor, "batch 1 height width"]
"""One number per latent cell, shared by the channels."""
Timesteps = Int[Tensor, " batch"]
"""One integer timestep per sample."""
PerSample = Float[Tensor, " batch"]
"""One number per sample."""
PredictionType = Literal["epsilon", "v_prediction", "sample"]
"""What a network predicts: the noise, v, or the clean latent."""
Rng = Sequence[Generator]
"""One CPU generator per sample, so that a sample's draws do not depend on its batch."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One noised pair: the picture and its source at the same timestep under the same noise."""

    z: Latent
    z_source: Latent
    t: Timesteps
    eps: Noise
    z_t: Latent
    z_source_t: Latent


@dataclass(frozen=True, kw_only=True)
class Step:
    """What an objective says about one draw.

    Attributes:
        t: timestep of each sample.
        gradient: direction times relevance, to be subtracted from z.
        relevance: the map the direction was multiplied with, in [0, 1].
        score_loss: half the mean square of `gradient`, per sample.
        spectrum_loss: the regulariser's value, per sample.
        loss: their sum, differentiable with respect to z.
    """

    t: Timesteps
    gradient: Latent
    relevance: Map
    score_loss: PerSample
    spectrum_loss: PerSample
    loss: PerSample


@dataclass(frozen=True, kw_only=True)
class FakeStep:
    """What one training step of the fake score did.

    Attributes:
        t: timestep of each sample.
        loss: weighted denoising loss of each sample.
        finite: whether loss and gradient were finite; if not, nothing was moved.
    """

    t: Timesteps
    loss: PerSample
    finite: bool = True
