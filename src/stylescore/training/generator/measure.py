"""What a training is measured by on photos it has not seen; smaller is better."""

from __future__ import annotations

from torch import Tensor

from stylescore.method.types import Rng
from stylescore.training.generator.batches import Batch
from stylescore.training.generator.losses import Matching, Regression
from stylescore.training.generator.networks import PixelPainting, encode

TIMESTEPS = (501, 651, 801)
"""Where the style's margin is measured: at smaller ones it tells fine grain, and not which style a picture has.

Of a thousand; models with another number of timesteps have theirs at the same fractions."""
CONTENT = 0.25
"""Weight of the perceptual distance to the photo against the style's margin."""


def measure_regression(regression: Regression, pictures: Tensor, batch: Batch, rng: Rng) -> Tensor:
    """Return the sum of the first phase's loss, without a critic, over a batch of held-out pairs."""
    distance, painting = regression.without_critic, PixelPainting(pictures, regression.networks)
    return distance.loss(distance(painting, batch, rng)).sum()


def measure_matching(matching: Matching, regression: Regression, pictures: Tensor, batch: Batch, rng: Rng) -> Tensor:
    """Return the sum over a batch of the perceptual distance to the photo, weighted, minus the style's margin.

    The margin says how much better the style model denoises the picture than the plain base does, see
    `Matching.style_margin`.
    """
    z, z_source = encode(matching.networks, pictures), encode(matching.networks, batch.photo)
    count = len(matching.objective.schedule.betas)
    margin = matching.style_margin(z, batch.captions, [t * count // 1000 for t in TIMESTEPS], rng)
    return (CONTENT * regression.distance(z, z_source, rng) - margin).sum()
