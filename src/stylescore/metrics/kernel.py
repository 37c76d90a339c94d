"""Kernel distance (KID): the squared maximum mean discrepancy of two sets of features under a cubic kernel.

Source: "Demystifying MMD GANs", ICLR 2018, section 4.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stylescore.metrics.features import Features, require_sets


def cubic_kernel(x: Features, y: Features) -> Float[Tensor, "_pictures _others"]:
    """Return k(x, y) = (x . y / d + 1)^3 for every pair of rows, d their length."""
    return (x @ y.T / x.shape[1] + 1).pow(3)


def mean_of_pairs(kernel: Float[Tensor, "n n"]) -> float:
    """Return the mean of a square matrix off its diagonal: no picture is compared with itself."""
    count = len(kernel)
    return float(kernel.sum() - kernel.trace()) / (count * (count - 1))


def kernel_distance(first: Features, second: Features) -> float:
    """Return the unbiased estimate of MMD^2, computed in float64 from all pairs.

    Its expectation does not depend on how many pictures there are: for small sets it is a fairer figure than the
    Frechet distance. Two samples of one distribution give about 0, and half of the time something below.

    Raises:
        ConfigError: fewer than two pictures in a set, or sets of different width.
    """
    require_sets(first, second)
    x, y = first.double(), second.double()
    within = mean_of_pairs(cubic_kernel(x, x)) + mean_of_pairs(cubic_kernel(y, y))
    return within - 2 * float(cubic_kernel(x, y).mean())
