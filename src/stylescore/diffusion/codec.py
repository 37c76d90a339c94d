"""Pictures to latents and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.types import Latent, Rng

Pictures = Float[Tensor, "batch 3 picture_height picture_width"]


@dataclass(frozen=True)
class Codec:
    """A diffusers `AutoencoderKL` with its latent scale; pictures are in [-1, 1].

    Pictures pass one at a time, so that a batch gives what each picture gives alone and needs no more memory.
    """

    vae: Any

    @property
    def factor(self) -> int:
        """How many pixels a latent cell spans on each axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def posterior(self, picture: Pictures) -> tuple[Latent, Latent]:
        """Return mean and standard deviation of the encoder's posterior, unscaled, float32."""
        posterior = self.vae.encode(picture.to(self.vae.dtype)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def scaled(self, latent: Latent) -> Latent:
        """Return a latent in the diffusion model's unit."""
        config = self.vae.config
        shift = float(getattr(config, "shift_factor", None) or 0.0)
        return (latent - shift) * float(config.scaling_factor)

    @torch.no_grad()
    def encode(self, pictures: Pictures, rng: Rng | None) -> Latent:
        """Encode to the posterior's mean, or to a sample of it drawn from `rng`, one generator a picture."""
        latents = []
        for n in range(len(pictures)):
            mean, std = self.posterior(pictures[n : n + 1])
            if rng is not None:
                mean = mean + std * torch.randn(mean.shape[1:], generator=rng[n]).to(mean)
            latents.append(self.scaled(mean))
        return torch.cat(latents)

    def encode_differentiably(self, pictures: Pictures) -> Latent:
        """Encode to the mean with gradient, the whole batch at once."""
        return self.scaled(self.posterior(pictures)[0])

    @torch.no_grad()
    def decode(self, latents: Latent) -> Pictures:
        """Decode to pictures; values may leave [-1, 1] a little."""
        config = self.vae.config
        raw = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        return torch.cat([self.vae.decode(z[None].to(self.vae.dtype)).sample.float() for z in raw])
