"""Distance of two pictures' colours, whatever they show: the RGB-uv histogram and its Hellinger distance.

Source: "HistoGAN: Controlling Colors of GAN-Generated and Real Images via Color Histograms", CVPR 2021, section 3.1,
with the constants of its released code, which StyleID's evaluation uses.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BINS = 64
LARGEST_SIDE = 256
REACH = 3.0
"""The axes run over log ratios of two channels from -3 to 3."""
SIGMA = 0.02
_EPSILON = 1e-6
_PIXELS = 1024
"""Of each picture at a time: with all of them, weights in bins take hundreds of megabytes, and most of the time."""

Pictures = Float[Tensor, "batch 3 _height _width"]
Histogram = Float[Tensor, "batch 3 bins bins"]


def colour_histogram(pictures: Pictures) -> Histogram:
    """Return the RGB-uv histogram of pictures in [-1, 1]; each sums to 1.

    Each of the three channels in turn is compared with the two others: u and v are the logarithms of the ratios, and a
    pixel counts with its intensity, spread over the bins by an inverse quadratic kernel. A picture with a side above
    256 pixels is resized to 256 x 256 first.
    """
    x = _limit_size((pictures + 1) / 2).clamp(0, 1).flatten(2).transpose(1, 2)  # [batch, pixels, 3]
    histogram = torch.stack([_planes(part) for part in torch.split(x, _PIXELS, dim=1)]).sum(dim=0)
    normalised: Tensor = histogram / (histogram.sum(dim=(1, 2, 3), keepdim=True) + _EPSILON)
    return normalised


def _limit_size(x: Pictures) -> Pictures:
    if max(x.shape[2:]) <= LARGEST_SIDE:
        return x
    return functional.interpolate(x, size=(LARGEST_SIDE, LARGEST_SIDE), mode="bilinear", align_corners=False)


def _planes(x: Float[Tensor, "batch pixels 3"]) -> Histogram:
    """Return the sum over pixels in [0, 1]."""
    intensity = (x.square().sum(dim=2, keepdim=True) + _EPSILON).sqrt()
    logs = (x + _EPSILON).log()
    return torch.stack([_plane(logs, intensity, *order) for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1))], dim=1)


def _plane(logs: Tensor, intensity: Tensor, channel: int, other: int, third: int) -> Float[Tensor, "batch bins bins"]:
    """Return the histogram of one channel's log ratios to the two others."""
    u, v = (_spread(logs[:, :, channel] - logs[:, :, n]) for n in (other, third))
    return (intensity * u).transpose(1, 2) @ v


def _spread(ratios: Float[Tensor, "batch pixels"]) -> Float[Tensor, "batch pixels bins"]:
    """Return each value's weight in every bin: 1 / (1 + distance^2 / sigma^2)."""
    centres = torch.linspace(-REACH, REACH, BINS, dtype=ratios.dtype, device=ratios.device)
    return 1 / (1 + ((ratios[:, :, None] - centres) / SIGMA).square())


def hellinger_distance(first: Float[Tensor, "n values"], second: Float[Tensor, "m values"]) -> Float[Tensor, "n m"]:
    """Return sqrt(1/2 sum (sqrt p - sqrt q)^2) of every row with every other, from 0 to 1."""
    overlap = first.double().clamp(min=0).sqrt() @ second.double().clamp(min=0).sqrt().T
    masses = (first.double().sum(dim=1)[:, None] + second.double().sum(dim=1)) / 2
    return (masses - overlap).clamp(min=0).sqrt().float()
