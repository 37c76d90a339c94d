"""Encoded prompts: what a denoising network receives besides latents and time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "batch tokens features"]
Pooled = Float[Tensor, "batch pooled_features"]


@dataclass(frozen=True)
class Control:
    """What a ControlNet adds to a U-Net's features.

    Attributes:
        network: a diffusers `ControlNetModel`, frozen.
        picture: what it follows, in [0, 1], at the size of the pictures.
        scale: factor of its residuals.
    """

    network: Any
    picture: Float[Tensor, "batch 3 _height _width"]
    scale: float = 1.0

    def residuals(self, latents: Tensor, time: Tensor, tokens: Tokens, added: Any) -> dict[str, Any]:
        """Return what the U-Net adds to its skip connections and its middle block, by its arguments' names."""
        down, middle = self.network(
            latents,
            time,
            encoder_hidden_states=tokens,
            controlnet_cond=self.picture,
            conditioning_scale=self.scale,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


@dataclass(frozen=True)
class ImagePrompt:
    """What IP-Adapters show of pictures, one tensor for each adapter.

    Attributes:
        given: features of the pictures, [batch, 1, width], or [batch, 1, patches, width].
        absent: what stands for no picture, of the same shapes, for the unconditional prediction.
    """

    given: tuple[Tensor, ...]
    absent: tuple[Tensor, ...]


@dataclass(frozen=True)
class Conditioning:
    """The features of prompts, one row each.

    Attributes:
        tokens: features of every token, for attention.
        pooled: one vector per prompt, for families whose network takes one.
        control: a ControlNet with one picture per prompt, for U-Nets.
        images: features of a picture per prompt for each IP-Adapter of a U-Net.
    """

    tokens: Tokens
    pooled: Pooled | None = None
    control: Control | None = None
    images: tuple[Tensor, ...] = ()

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """Return the same features on another device or in another precision."""
        return self._map(lambda rows: rows.to(device, dtype))

    def __getitem__(self, rows: slice) -> Conditioning:
        """Return the features of some of the prompts."""
        return self._map(lambda every: every[rows])

    def select(self, rows: Sequence[int]) -> Conditioning:
        """Return the features of some of the prompts by their numbers, which may repeat."""
        return self._map(lambda every: every[torch.tensor(rows, device=every.device)])

    def expand(self, count: int) -> Conditioning:
        """Return the features of the only prompt for so many rows, without a copy."""
        return self._map(lambda row: row.expand(count, *row.shape[1:]))

    def repeat_interleave(self, count: int) -> Conditioning:
        """Return every row `count` times, one after another."""
        return self._map(lambda rows: rows.repeat_interleave(count, dim=0))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """Return the same with every tensor of rows changed."""
        control = self.control and replace(self.control, picture=change(self.control.picture))
        pooled = None if self.pooled is None else change(self.pooled)
        return Conditioning(change(self.tokens), pooled, control, tuple(map(change, self.images)))

    def mask(self, keep: Sequence[bool]) -> Conditioning:
        """Return the same with zeros as the features of all prompts that are not kept."""
        mask = torch.tensor(keep, device=self.tokens.device, dtype=self.tokens.dtype)  # [batch]
        pooled = None if self.pooled is None else self.pooled * mask[:, None]
        return replace(self, tokens=self.tokens * mask[:, None, None], pooled=pooled)


def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
    """Concatenate the rows of all parts; either all have pooled features, a ControlNet or pictures, or none."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    controls = [part.control for part in parts if part.control is not None]
    control = replace(controls[0], picture=torch.cat([each.picture for each in controls])) if controls else None
    images = tuple(map(torch.cat, zip(*(part.images for part in parts), strict=True)))
    tokens = torch.cat([part.tokens for part in parts])
    return Conditioning(tokens, torch.cat(pooled) if pooled else None, control, images)
