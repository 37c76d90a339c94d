"""Progressive Spectrum Regularization: low frequencies stay with the source, fewer of them as t falls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stylescore.method.types import Latent, PerSample, Timesteps


class SpectrumLoss(Protocol):
    """A differentiable regulariser between a latent and its source."""

    def __call__(self, z: Latent, z_source: Latent, t: Timesteps) -> PerSample:
        """Return one number per sample."""
        ...


def dct_matrix(n: int, *, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "n n"]:
    """Return the orthonormal DCT-II matrix C, C[u, x] = c_u cos(pi (2x + 1) u / 2n), C C^T = 1."""
    u = torch.arange(n, dtype=torch.float64)[:, None]
    x = torch.arange(n, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (2 * x + 1) * u / (2 * n)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix.to(dtype=dtype, device=device)


def dct2(x: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """Return the orthonormal two-dimensional DCT-II over the last two axes, C_h x C_w^T."""
    height, width = x.shape[-2:]
    c_h = dct_matrix(height, dtype=x.dtype, device=x.device)
    c_w = c_h if height == width else dct_matrix(width, dtype=x.dtype, device=x.device)
    return c_h @ x @ c_w.mT


def cutoff(t: Timesteps, height: int, width: int, period: int = 500) -> Int[Tensor, " batch"]:
    """Return tau(t) = floor(t (h + w - 2) / period) in integer arithmetic; all frequencies at t >= period."""
    return t * (height + width - 2) // period


def low_pass_mask(
    tau: Int[Tensor, " batch"], height: int, width: int, free_below: int = 0
) -> Bool[Tensor, "batch 1 h w"]:
    """Keep coefficient (u, v) where free_below <= u + v <= tau; 0 keeps the mean too."""
    u = torch.arange(height, device=tau.device)[:, None]
    v = torch.arange(width, device=tau.device)[None, :]
    return ((u + v) <= tau.view(-1, 1, 1, 1)) & (u + v >= free_below)


Distance = Callable[[Tensor], Tensor]


def absolute(difference: Tensor) -> Tensor:
    """|x|: the L1 distance of the released code."""
    return difference.abs()


def squared(difference: Tensor) -> Tensor:
    """x^2: the squared L2 distance of the paper's text."""
    return difference.square()


@dataclass(frozen=True, kw_only=True)
class ProgressiveSpectrum:
    """lambda mean |LP_t(DCT z) - LP_t(DCT z_source)| over all entries, masked ones included (paper, PSR).

    Attributes:
        weight: lambda.
        distance: `absolute` or `squared`.
        period: the timestep at which all frequencies are held.
        free_below: frequencies with u + v below this are never held.
    """

    weight: float
    distance: Distance = absolute
    period: int = 500
    free_below: int = 0

    def __call__(self, z: Latent, z_source: Latent, t: Timesteps) -> PerSample:
        """The DCT is linear, so the difference is transformed once."""
        height, width = z.shape[-2:]
        mask = low_pass_mask(cutoff(t, height, width, self.period), height, width, self.free_below)
        difference = dct2(z - z_source) * mask.to(z.device)
        return self.weight * self.distance(difference).flatten(1).mean(dim=1)


def no_spectrum(z: Latent, z_source: Latent, t: Timesteps) -> PerSample:
    """Return zeros: no regularisation."""
    del z_source, t
    return z.new_zeros(len(z))
