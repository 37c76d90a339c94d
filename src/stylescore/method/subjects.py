"""What the loop can fit: a picture's latent, or a network that stylizes any picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylescore.method.types import Latent, Rng


class Subject(Protocol):
    """Something that yields latents and owns the parameters behind them."""

    def draw(self, rng: Rng) -> tuple[Latent, Latent]:
        """Return (z, z_source): z differentiable in `parameters()`, both [batch, c, h, w]."""
        ...

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return what the optimiser may change."""
        ...

    def render(self) -> Tensor:
        """Return what the subject looks like now: latents [n, c, h, w] ready for the decoder."""
        ...


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


Photos = Float[Tensor, "batch 3 height width"]


@dataclass(frozen=True)
class NetworkSubject:
    """Pictures are G(x) for photos x drawn from a collection (paper, parameter-space stylization).

    Attributes:
        network: G, photos in [-1, 1] to photos in [-1, 1].
        photos: the collection, [n, 3, h, w] in [-1, 1].
        encode: differentiable encoder of photos into latents.
    """

    network: nn.Module
    photos: Photos
    encode: Callable[[Photos], Latent]

    def draw(self, rng: Rng) -> tuple[Latent, Latent]:
        """Draw one photo per generator; return (encode(G(x)), encode(x))."""
        chosen = [int(torch.randint(len(self.photos), (), generator=g).item()) for g in rng]
        batch = self.photos[chosen]
        with torch.no_grad():
            z_source = self.encode(batch)
        return self.encode(self.network(batch)), z_source

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the network's weights."""
        return tuple(self.network.parameters())

    def render(self) -> Latent:
        """Return the latents of the stylized collection."""
        with torch.no_grad():
            return self.encode(self.network(self.photos))
