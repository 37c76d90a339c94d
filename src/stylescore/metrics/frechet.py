"""Frechet distance of two sets of pictures, each described by a Gaussian in feature space.

Source: "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.features import Features, check_sets

Vector = Float[Tensor, " features"]
Square = Float[Tensor, "features features"]


def mean_and_covariance(features: Features) -> tuple[Vector, Square]:
    """Return the mean and the covariance (sum of squares divided by n - 1) in float64."""
    exact = features.double()
    centred = exact - exact.mean(dim=0)
    return exact.mean(dim=0), centred.T @ centred / (len(exact) - 1)


def square_root(matrix: Square) -> Square:
    """Return the symmetric square root of a positive semidefinite matrix; eigenvalues negative by rounding become 0."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return root


def trace_of_square_root(first: Square, second: Square) -> float:
    """Return tr (A B)^(1/2) from the eigenvalues of the symmetric A^(1/2) B A^(1/2), which equal those of A B."""
    half = square_root(first)
    values = torch.linalg.eigvalsh(half @ second @ half)
    return float(values.clamp(min=0).sqrt().sum())


def gaussian_distance(first: tuple[Vector, Square], second: tuple[Vector, Square]) -> float:
    """Return |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians given as (mean, covariance)."""
    (mean_1, covariance_1), (mean_2, covariance_2) = first, second
    separate = (mean_1 - mean_2).square().sum() + covariance_1.trace() + covariance_2.trace()
    return float(separate) - 2 * trace_of_square_root(covariance_1, covariance_2)


def frechet_distance(first: Features, second: Features) -> float:
    """Return the Frechet distance of two sets of features.

    It is biased upward, and more so for fewer pictures: two samples of one distribution are never at distance 0.
    Compare only distances of equally many pictures. With few pictures, keep the number of features below that of the
    pictures (`principal_axes`), or use `kernel_distance`.

    Raises:
        ConfigError: a set has fewer than two pictures, or the sets differ in the number of features.
    """
    check_sets(first, second)
    return gaussian_distance(mean_and_covariance(first), mean_and_covariance(second))


@dataclass(frozen=True)
class Axes:
    """A projection of features on fewer axes.

    Attributes:
        mean: subtracted before the projection.
        directions: orthonormal columns, the axis of largest variance first.
        explained_variance: fraction of the variance of the features the axes were computed from.
    """

    mean: Vector
    directions: Float[Tensor, "features kept"]
    explained_variance: float

    def __call__(self, features: Features) -> Features:
        """Project features on the axes, in float64."""
        return (features.double() - self.mean) @ self.directions


def principal_axes(features: Features, count: int) -> Axes:
    """Return the `count` axes of largest variance.

    Raises:
        ConfigError: more axes than features, or than pictures minus one.
    """
    most = min(features.shape[1], len(features) - 1)
    if not 1 <= count <= most:
        raise ConfigError(f"the number of axes must be from 1 to {most}, not {count}", hint="use more pictures")
    mean, covariance = mean_and_covariance(features)
    values, vectors = torch.linalg.eigh(covariance)
    return Axes(mean, vectors[:, -count:].flip(1), float(values[-count:].sum() / values.sum()))
