"""Rivals that change a picture's pixels: in the loop of the other methods, without noise and without a diffusion model.

Their latents are the pixels in [-1, 1]. A schedule without noise leaves every picture as it is, so that a draw is the
picture and its photo; a direction is all that such a method consists of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.method.directions import Direction
from stylescore.method.objective import Objective
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import Predictions, ScoreName
from stylescore.method.types import Draw, Latent, Noise, Rng, Timesteps

Pictures = Float[Tensor, "_pictures 3 _height _width"]


@dataclass(frozen=True)
class PixelCodec:
    """Stands where a diffusion model has its autoencoder: what is fitted are the pixels.

    Attributes:
        factor: pixels per latent cell on each axis.
    """

    factor: int = field(default=1, init=False)

    def encode(self, pictures: Pictures, rng: Rng | None) -> Pictures:
        """Return the pictures."""
        return pictures.clone()

    def decode(self, latents: Pictures) -> Pictures:
        """Return the pictures, within their range."""
        return latents.clamp(-1, 1)

    def in_tiles(self, cells: int | None) -> PixelCodec:
        """Return the codec: nothing is gained by tiles."""
        return self


def first_timestep(progress: float, rng: Rng) -> Timesteps:
    """Return the only timestep of a schedule without noise."""
    return torch.zeros(len(rng), dtype=torch.long)


def no_noise(like: Tensor, rng: Rng) -> Noise:
    """Return no noise."""
    return torch.zeros_like(like)


def pixel_objective(direction: Direction) -> Objective:
    """Return an objective whose steps are a direction in pixels, which needs no scores."""
    schedule = NoiseSchedule(torch.zeros(1), stride=1)
    return Objective(schedule=schedule, timesteps=first_timestep, direction=direction, noise=no_noise)


@dataclass(frozen=True)
class ToTransferred:
    """What leads from a picture to the result that a network has for its photo: one whole step makes it.

    Attributes:
        transfer: photos to pictures of the same size, in [-1, 1].
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ()
    transfer: Callable[[Pictures], Pictures]

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the difference that a step of plain gradient descent takes off."""
        return draw.z - self.transfer(draw.z_source)
