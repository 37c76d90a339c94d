"""A batch of pictures, each its own latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stylescore.method.types import Latent, Rng


@dataclass(frozen=True)
class LatentSubject:
    """The latent itself is the parameter; it starts at the source.

    Attributes:
        z_source: latents of the source pictures, [batch, c, h, w].
        z: the latents being fitted.
    """

    z_source: Latent
    z: nn.Parameter

    @classmethod
    def at(cls, z_source: Latent) -> LatentSubject:
        """Return a subject that starts as a copy of its source, in float32."""
        source = z_source.detach().to(torch.float32)
        return cls(source, nn.Parameter(source.clone()))

    def draw(self, rng: Rng) -> tuple[Latent, Latent]:
        """Return the pictures and their sources; nothing is random."""
        del rng
        return self.z, self.z_source

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the latent."""
        return (self.z,)

    def render(self) -> Latent:
        """Return the latents as they stand."""
        return self.z.detach()
