"""A feed-forward network that maps photos to stylized photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylescore.method.types import Latent, Rng

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
