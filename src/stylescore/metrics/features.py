"""What the figures over sets of features share: the shape, and the refusal of sets they cannot be computed from."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stylescore.errors import ConfigError

Features = Float[Tensor, "_pictures _features"]
"""One row of numbers for every picture; sets of several sizes and widths meet in one call."""


def require_sets(first: Features, second: Features) -> None:
    """Raise `ConfigError` unless both sets hold two pictures or more, described by equally many numbers."""
    if first.shape[1] != second.shape[1]:
        raise ConfigError(
            f"two sets of features must have one width, not {first.shape[1]} and {second.shape[1]}",
            hint="make both with the same network",
        )
    fewest = min(len(first), len(second))
    if fewest < 2:
        raise ConfigError(f"a set of features needs at least 2 pictures, got {fewest}", hint="take more pictures")
