"""Kernel distance (KID): the squared maximum mean discrepancy of two sets of features under a cubic kernel.

Source: "Demystifying MMD GANs", ICLR 2018, section 4.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from stylescore.metrics.features import Features, check_sets


def cubic_kernel(x: Features, y: Features) -> Float[Tensor, "_pictures _others"]:
    """Return k(x, y) = (x . y / d + 1)^3 for every pair of rows of length d."""
    return (x @ y.T / x.shape[1] + 1).pow(3)


def _mean_off_diagonal(kernel: Float[Tensor, "n n"]) -> float:
    """Return the mean of a square matrix without its diagonal, where a picture is compared with itself."""
    count = len(kernel)
    return float(kernel.sum() - kernel.trace()) / (count * (count - 1))


def kernel_distance(first: Features, second: Features) -> float:
    """Return the unbiased estimate of MMD^2, computed in float64 from all pairs.

    Its expectation does not depend on the number of pictures, which makes it more reliable than the Frechet distance
    for small sets. Two samples of one distribution give about 0, and a negative value half of the time.

    Raises:
        ConfigError: a set has fewer than two pictures, or the sets differ in the number of features.
    """
    check_sets(first, second)
    x, y = first.double(), second.double()
    within = _mean_off_diagonal(cubic_kernel(x, x)) + _mean_off_diagonal(cubic_kernel(y, y))
    return within - 2 * float(cubic_kernel(x, y).mean())
