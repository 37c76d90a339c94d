"""Measures of stylized pictures: pure functions of features or pixels, and the networks that compute the features.

The package contains no weights of these networks and loads none: the caller passes a state dict.
"""

from __future__ import annotations

from stylescore.metrics.accumulate import Rows as Rows
from stylescore.metrics.artefacts import clipped_fraction as clipped_fraction
from stylescore.metrics.artefacts import grain as grain
from stylescore.metrics.artefacts import grid_energy as grid_energy
from stylescore.metrics.classifier import StyleClassifier as StyleClassifier
from stylescore.metrics.combined import artfid as artfid
from stylescore.metrics.embeddings import clip_direction as clip_direction
from stylescore.metrics.embeddings import clip_score as clip_score
from stylescore.metrics.frechet import frechet_distance as frechet_distance
from stylescore.metrics.frechet import frechet_infinity as frechet_infinity
from stylescore.metrics.frechet import principal_axes as principal_axes
from stylescore.metrics.gram import gram_matrix as gram_matrix
from stylescore.metrics.gram import nearest_neighbour_distance as nearest_neighbour_distance
from stylescore.metrics.histogram import colour_histogram as colour_histogram
from stylescore.metrics.histogram import hellinger_distance as hellinger_distance
from stylescore.metrics.inception import Inception as Inception
from stylescore.metrics.intervals import mean_interval as mean_interval
from stylescore.metrics.kernel import kernel_distance as kernel_distance
from stylescore.metrics.lpips import Lpips as Lpips
from stylescore.metrics.mobilenet import MobileNetFeatures as MobileNetFeatures
from stylescore.metrics.perceptual import PerceptualDistance as PerceptualDistance
from stylescore.metrics.self_similarity import cfsd as cfsd
from stylescore.metrics.self_similarity import structure_distance as structure_distance
