"""What a network is told besides latents and time: the features of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "batch tokens features"]
Pooled = Float[Tensor, "batch pooled_features"]


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row each.

    Attributes:
        tokens: what attention reads.
        pooled: one vector a prompt, for families whose network takes one.
    """

    tokens: Tokens
    pooled: Pooled | None = None

    def __len__(self) -> int:
        """Return how many prompts there are."""
        return len(self.tokens)

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Return the same features on another device or in another precision."""
        tokens, pooled = self.tokens.to(device, dtype), self.pooled
        return Conditioning(tokens, None if pooled is None else pooled.to(device, dtype))

    def __getitem__(self, chosen: slice) -> Conditioning:
        """Return some of the prompts."""
        return Conditioning(self.tokens[chosen], None if self.pooled is None else self.pooled[chosen])

    def rows(self, chosen: Sequence[int]) -> Conditioning:
        """Return the features of some of the prompts, which may repeat."""
        index = torch.tensor(chosen, device=self.tokens.device)
        return Conditioning(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def repeated(self, count: int) -> Conditioning:
        """Return every row so many times, one after another."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, dim=0)
        return Conditioning(self.tokens.repeat_interleave(count, dim=0), pooled)

    def where(self, keep: Sequence[bool]) -> Conditioning:
        """Return the same with the features of all prompts that are not kept set to zero."""
        mask = torch.tensor(keep, device=self.tokens.device, dtype=self.tokens.dtype)
        pooled = None if self.pooled is None else self.pooled * mask[:, None]
        return Conditioning(self.tokens * mask[:, None, None], pooled)


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Return the rows of all parts one after another; either all have pooled features or none."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)
