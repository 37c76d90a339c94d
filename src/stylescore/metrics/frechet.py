"""Frechet distance of two sets of pictures, each seen as a Gaussian in feature space.

Source: "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.features import Features, require_sets

Vector = Float[Tensor, " features"]
Square = Float[Tensor, "features features"]


def mean_and_covariance(features: Features) -> tuple[Vector, Square]:
    """Return mean and covariance (sum of squares over n - 1) in float64."""
    exact = features.double()
    centred = exact - exact.mean(dim=0)
    return exact.mean(dim=0), centred.T @ centred / (len(exact) - 1)


def root(matrix: Square) -> Square:
    """Return the symmetric root of a positive semidefinite matrix; rounding's negative eigenvalues count as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    rooted: Tensor = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return rooted


def trace_of_root(first: Square, second: Square) -> float:
    """Return tr (A B)^(1/2), from the eigenvalues of the symmetric A^(1/2) B A^(1/2), which are those of A B."""
    half = root(first)
    values = torch.linalg.eigvalsh(half @ second @ half)
    return float(values.clamp(min=0).sqrt().sum())


def gaussian_distance(first: tuple[Vector, Square], second: tuple[Vector, Square]) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians given as (mean, covariance)."""
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    apart = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace()
    return float(apart) - 2 * trace_of_root(covariance_1, covariance_2)


def frechet_distance(first: Features, second: Features) -> float:
    """Return the Frechet distance of two sets of features.

    It is biased upward, the more so the fewer pictures there are: two samples of one distribution are never at
    distance 0. Compare only figures of equally many pictures, and with few pictures keep the number of features
    below that of the pictures (`principal_axes`) or read `kernel_distance` instead.

    Raises:
        ConfigError: fewer than two pictures in a set, or sets of different width.
    """
    require_sets(first, second)
    return gaussian_distance(mean_and_covariance(first), mean_and_covariance(second))


@dataclass(frozen=True)
class Axes:
    """A change of features to fewer ones.

    Attributes:
        mean: subtracted first.
        directions: orthonormal columns, the axis of most variance first.
        share: part of the variance of the features they were found on that they keep.
    """

    mean: Vector
    directions: Float[Tensor, "features kept"]
    share: float

    def __call__(self, features: Features) -> Features:
        """Return the features along the axes, in float64."""
        return (features.double() - self.mean) @ self.directions


def principal_axes(features: Features, count: int) -> Axes:
    """Return the `count` directions in which features vary most.

    Raises:
        ConfigError: more axes than features or than pictures less one.
    """
    most = min(features.shape[1], len(features) - 1)
    if not 1 <= count <= most:
        raise ConfigError(f"the number of axes must be from 1 to {most}, not {count}", hint="take more pictures")
    mean, covariance = mean_and_covariance(features)
    values, vectors = torch.linalg.eigh(covariance)
    return Axes(mean, vectors[:, -count:].flip(1), float(values[-count:].sum() / values.sum()))
