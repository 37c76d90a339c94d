"""Pictures to latents and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.diffusion.execution.memory import moved_to_device
from stylescore.diffusion.execution.tiling import blend_tiles
from stylescore.method.types import Latent, Rng

Pictures = Float[Tensor, "batch 3 picture_height picture_width"]


@dataclass(frozen=True)
class Codec:
    """A diffusers `AutoencoderKL` with its latent scale; pictures are in [-1, 1].

    An `AutoencoderTiny` decodes too; its latents are in the diffusion model's unit as they are.

    Pictures are processed one at a time, so that a batch gives what each picture gives alone and needs no more memory.

    Attributes:
        vae: the autoencoder, frozen.
        tile: side in latent cells of the tiles of larger pictures; `None` processes them whole.
        execution_device: where the autoencoder is moved to while it runs without gradient; `None` leaves it where it
            is.
    """

    vae: Any
    tile: int | None = None
    execution_device: torch.device | None = None

    @property
    def factor(self) -> int:
        """How many pixels a latent cell spans on each axis."""
        step = getattr(self.vae.config, "upsampling_scaling_factor", 2)
        return int(step ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def scale(self) -> tuple[float, ...]:
        """The factor that brings latents into the diffusion model's unit, after the shift: one, or one a channel."""
        factor = float(self.vae.config.scaling_factor)
        return tuple(factor / deviation for deviation in getattr(self.vae.config, "latents_std", None) or (1.0,))

    @property
    def shift(self) -> tuple[float, ...]:
        """What is taken from latents before they are scaled; most families shift nothing."""
        mean = getattr(self.vae.config, "latents_mean", None)
        return tuple(map(float, mean or (getattr(self.vae.config, "shift_factor", None) or 0.0,)))

    def posterior(self, picture: Pictures) -> tuple[Latent, Latent]:
        """Return mean and standard deviation of the encoder's posterior, unscaled, float32."""

        def moments(part: Tensor) -> Tensor:
            posterior = self.vae.encode(part.to(self.vae.dtype)).latent_dist
            return torch.cat([posterior.mean, posterior.std], dim=1).float()

        mean, std = blend_tiles(moments, picture, side=self.tile, cell_in=self.factor).chunk(2, dim=1)
        return mean, std

    def scale_latent(self, latent: Latent) -> Latent:
        """Return a latent in the diffusion model's unit."""
        scale, shift = _per_channel(self.scale, latent), _per_channel(self.shift, latent)
        return (latent - shift) * scale

    @torch.no_grad()
    def encode(self, pictures: Pictures, rng: Rng | None) -> Latent:
        """Encode to the posterior's mean, or to a sample of it drawn from `rng`, one generator a picture."""
        with moved_to_device([self.vae], self.execution_device):
            posteriors = [self.posterior(pictures[n : n + 1]) for n in range(len(pictures))]
        if rng is None:
            return self.scale_latent(torch.cat([mean for mean, _ in posteriors]))
        drawn = [
            mean + std * torch.randn(mean.shape[1:], generator=generator).to(mean)
            for (mean, std), generator in zip(posteriors, rng, strict=True)
        ]
        return self.scale_latent(torch.cat(drawn))

    def encode_differentiably(self, pictures: Pictures) -> Latent:
        """Encode to the mean with gradient, the whole batch at once."""
        return self.scale_latent(self.posterior(pictures)[0])

    @torch.no_grad()
    def decode(self, latents: Latent) -> Pictures:
        """Decode to pictures; values may leave [-1, 1] a little."""
        with moved_to_device([self.vae], self.execution_device):
            return torch.cat([self.decode_differentiably(z[None]) for z in latents])

    def decode_differentiably(self, latents: Latent) -> Pictures:
        """Decode with gradient, the whole batch at once."""
        raw = latents / _per_channel(self.scale, latents) + _per_channel(self.shift, latents)

        def decode(part: Tensor) -> Tensor:
            return self.vae.decode(part.to(self.vae.dtype)).sample.float()  # type: ignore[no-any-return]

        return blend_tiles(decode, raw, side=self.tile, cell_out=self.factor)


def _per_channel(values: tuple[float, ...], latents: Latent) -> float | Tensor:
    """Return one number, or [channels, 1, 1] numbers on the device of latents."""
    return values[0] if len(values) == 1 else torch.tensor(values, device=latents.device)[:, None, None]
