"""What pictures are judged by: pure functions on features or pixels, and the networks that make the features.

No weights come with the package and none are read here: a network takes a state dict that the caller has loaded.
"""

from __future__ import annotations

from stylescore.metrics.artefacts import clipped_share as clipped_share
from stylescore.metrics.artefacts import grain as grain
from stylescore.metrics.artefacts import grid_energy as grid_energy
from stylescore.metrics.classifier import StyleClassifier as StyleClassifier
from stylescore.metrics.frechet import frechet_distance as frechet_distance
from stylescore.metrics.frechet import principal_axes as principal_axes
from stylescore.metrics.kernel import kernel_distance as kernel_distance
from stylescore.metrics.mobilenet import MobileNetFeatures as MobileNetFeatures
from stylescore.metrics.perceptual import PerceptualDistance as PerceptualDistance
