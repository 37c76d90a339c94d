"""Measures of stylized pictures: pure functions of features or pixels, and the networks that compute the features.

The package contains no weights of these networks and loads none: the caller passes a state dict.
"""

from __future__ import annotations

from stylescore.metrics.artefacts import clipped_fraction as clipped_fraction
from stylescore.metrics.artefacts import grain as grain
from stylescore.metrics.artefacts import grid_energy as grid_energy
from stylescore.metrics.classifier import StyleClassifier as StyleClassifier
from stylescore.metrics.frechet import frechet_distance as frechet_distance
from stylescore.metrics.frechet import principal_axes as principal_axes
from stylescore.metrics.kernel import kernel_distance as kernel_distance
from stylescore.metrics.mobilenet import MobileNetFeatures as MobileNetFeatures
from stylescore.metrics.perceptual import PerceptualDistance as PerceptualDistance
