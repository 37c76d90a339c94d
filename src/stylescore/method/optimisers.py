"""The learning rate of a run."""

from __future__ import annotations

import math
from collections.abc import Callable


def learning_rate(
    peak: float, iterations: int, *, warmup: float = 0.0, cosine_length: float = 0.0
) -> Callable[[int], float]:
    """Return the learning rate as a function of the iteration: linear warm-up from 0, then a cosine.

    After W warm-up iterations the factor is max(0, (1 + cos(pi (i - W) / max(1, L - W))) / 2) with L the
    cosine length times the iterations, so that length 1.5 ends at about a third (METHOD, "Constants").

    Args:
        peak: learning rate after the warm-up.
        iterations: length of the run.
        warmup: W, in iterations.
        cosine_length: length of the cosine in units of the iterations; 0 keeps the peak after the warm-up.
    """
    span = max(1.0, math.floor(cosine_length * iterations) - warmup)

    def at(iteration: int) -> float:
        if iteration < warmup:
            return peak * iteration / warmup
        if cosine_length == 0:
            return peak
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / span)))

    return at
