"""The one thing the loop knows about what it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
