"""Encoded prompts: what a denoising network receives besides latents and time."""

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
    """The features of prompts, one row each.

    Attributes:
        tokens: features of every token, for attention.
        pooled: one vector per prompt, for families whose network takes one.
    """

    tokens: Tokens
    pooled: Pooled | None = None

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Return the same features on another device or in another precision."""
        tokens, pooled = self.tokens.to(device, dtype), self.pooled
        return Conditioning(tokens, None if pooled is None else pooled.to(device, dtype))

    def __getitem__(self, rows: slice) -> Conditioning:
        """Return the features of some of the prompts."""
        return Conditioning(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def select(self, rows: Sequence[int]) -> Conditioning:
        """Return the features of some of the prompts by their numbers, which may repeat."""
        index = torch.tensor(rows, device=self.tokens.device)
        return Conditioning(self.tokens[index], None if self.pooled is None else self.pooled[index])

    def repeat_interleave(self, count: int) -> Conditioning:
        """Return every row `count` times, one after another."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, dim=0)
        return Conditioning(self.tokens.repeat_interleave(count, dim=0), pooled)

    def mask(self, keep: Sequence[bool]) -> Conditioning:
        """Return the same with zeros as the features of all prompts that are not kept."""
        mask = torch.tensor(keep, device=self.tokens.device, dtype=self.tokens.dtype)  # [batch]
        pooled = None if self.pooled is None else self.pooled * mask[:, None]
        return Conditioning(self.tokens * mask[:, None, None], pooled)


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Concatenate the rows of all parts; either all have pooled features or none."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(torch.cat([part.tokens for part in parts]), torch.cat(pooled) if pooled else None)
