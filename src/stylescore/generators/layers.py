"""What the generators have in common: sizes, noise fields, and layers that act on every position alike."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from stylescore.errors import PictureError

CELL = 8
"""Pixels that a cell of the noise field spans on each axis; pictures are padded to multiples of it."""

Photos = Float[Tensor, "batch 3 height width"]
"""Photos or pictures in [0, 1]."""
NoiseField = Float[Tensor, "batch noise_channels rows columns"]
"""Standard normal noise, one cell for 8 x 8 pixels."""


def cells(pixels: int) -> int:
    """Return how many cells cover so many pixels."""
    return -(-pixels // CELL)


def pad_to_cells(photo: Photos) -> Float[Tensor, "batch 3 padded_height padded_width"]:
    """Return photos whose sides are multiples of a cell, their last row and column repeated."""
    height, width = photo.shape[-2:]
    return F.pad(photo, (0, -width % CELL, 0, -height % CELL), mode="replicate")


def check_inputs(photo: Tensor, noise: Tensor | None, noise_channels: int) -> None:
    """Raise `PictureError` unless photo and noise have the shapes that a generator takes."""
    shape = tuple(photo.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise PictureError(f"a generator takes photos [batch, 3, height, width], not {list(shape)}")
    wanted = (shape[0], noise_channels, cells(shape[2]), cells(shape[3]))
    if noise_channels and (noise is None or tuple(noise.shape) != wanted):
        got = "none" if noise is None else list(noise.shape)
        raise PictureError(f"the noise for photos {list(shape)} must be {list(wanted)}, not {got}")


class ChannelNorm(nn.Module):
    """Brings the channels of every position to mean 0 and variance 1, with a learned scale and shift per channel.

    No position depends on another one, so that a tile has the same activations as the whole picture.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return activations [n, c, h, w] of the same shape."""
        centred = x - x.mean(dim=1, keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5)
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]
