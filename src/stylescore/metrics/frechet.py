"""Frechet distance of two sets of pictures, each described by a Gaussian in feature space.

Source: "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

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
    if max(len(first), len(second)) > first.shape[1]:
        return gaussian_distance(mean_and_covariance(first), mean_and_covariance(second))
    return _distance_of_few(first.double(), second.double())


def _distance_of_few(first: Features, second: Features) -> float:
    """Return the Frechet distance of sets with no more pictures than features, without their covariances.

    With centred features A and B, the eigenvalues of S1 S2 are the squared singular values of A B^T / sqrt((n-1)(m-1)),
    a matrix with one row and one column for each picture.
    """
    a, b = first - first.mean(dim=0), second - second.mean(dim=0)
    n, m = len(a) - 1, len(b) - 1
    shift = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    spread = a.square().sum() / n + b.square().sum() / m
    return float(shift + spread - 2 * torch.linalg.svdvals(a @ b.T).sum() / (n * m) ** 0.5)


@dataclass(frozen=True)
class Extrapolation:
    """The Frechet distance extrapolated to infinitely many pictures.

    Attributes:
        value: the extrapolated distance.
        error: its standard error, from the scatter of the distances about the line.
        sizes: number of pictures of each set behind each distance.
        distances: one for each size.
    """

    value: float
    error: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def fewest_for_infinity(features: int) -> int:
    """Return how many pictures of each set `frechet_infinity` needs, for a number of features.

    The bias is proportional to 1 / N only for N well above the number of features. The smallest subset has 2.5 pictures
    for each feature, about the published 5000 for 2048; the largest must be distinctly larger for a line.
    """
    return math.ceil(1.5 * _smallest_subset(features))


def _smallest_subset(features: int) -> int:
    return math.ceil(2.5 * features)


def frechet_infinity(first: Features, second: Features, rng: Generator, points: int = 15) -> Extrapolation:
    """Return the Frechet distance without the bias of a finite number of pictures.

    The distance is computed for subsets of both sets, equally many of each, at `points` sizes that are evenly spaced in
    1 / N. A line in 1 / N is fitted by least squares; its value at 0 is the distance.

    Source: "Effectively Unbiased FID and Inception Score and where to find them", CVPR 2020, section 5.

    Args:
        first: features of one set.
        second: features of the other.
        rng: chooses the subsets.
        points: number of sizes, at least 3.

    Raises:
        ConfigError: the smaller set has fewer pictures than `fewest_for_infinity`, or the features differ in number.
    """
    check_sets(first, second)
    largest, fewest = min(len(first), len(second)), fewest_for_infinity(first.shape[1])
    if largest < fewest:
        raise ConfigError(
            f"an extrapolation of the Frechet distance needs {fewest} pictures of each set, got {largest}",
            hint="use the kernel distance for few pictures",
        )
    inverse = torch.linspace(1 / _smallest_subset(first.shape[1]), 1 / largest, points, dtype=torch.float64)
    sizes = [min(largest, round(1 / float(x))) for x in inverse]
    distances = [frechet_distance(_subset(first, n, rng), _subset(second, n, rng)) for n in sizes]
    value, error = _intercept(1 / torch.tensor(sizes).double(), torch.tensor(distances).double())
    return Extrapolation(value, error, tuple(sizes), tuple(distances))


def _subset(features: Features, count: int, rng: Generator) -> Features:
    return features[torch.randperm(len(features), generator=rng)[:count]]


def _intercept(x: Vector, y: Vector) -> tuple[float, float]:
    """Return the value at 0 of the least-squares line through points, and its standard error."""
    centred = x - x.mean()
    slope = (centred * y).sum() / centred.square().sum()
    value = y.mean() - slope * x.mean()
    residual = (y - value - slope * x).square().sum() / (len(x) - 2)
    error = (residual * (1 / len(x) + x.mean() ** 2 / centred.square().sum())).sqrt()
    return float(value), float(error)


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
