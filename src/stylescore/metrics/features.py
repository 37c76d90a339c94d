"""The shape of features, and the check of two sets of them, for all distances between sets."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stylescore.errors import ConfigError

Features = Float[Tensor, "_pictures _features"]
"""One row of numbers for each picture; the sets of one call may differ in both sizes."""


def check_sets(first: Features, second: Features) -> None:
    """Raise `ConfigError` unless both sets have the same number of features and at least two pictures."""
    if first.shape[1] != second.shape[1]:
        raise ConfigError(
            f"two sets must have the same number of features, not {first.shape[1]} and {second.shape[1]}",
            hint="compute both with the same network",
        )
    fewest = min(len(first), len(second))
    if fewest < 2:
        raise ConfigError(f"a set of features needs at least 2 pictures, got {fewest}", hint="use more pictures")
