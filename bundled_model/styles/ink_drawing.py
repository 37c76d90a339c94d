"""Ink drawing: bold black lines and solid black shadows on white."""

from __future__ import annotations

import numpy as np

from bundled_model.styles.common import Picture, blur, luminance, smooth_noise, stretch


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Draw with a brush pen: an extended difference of Gaussians, thresholded softly."""
    gray = stretch(luminance(picture))
    fine, coarse = blur(gray, 1.5), blur(gray, 2.6)
    ink = fine + 14 * (fine - coarse) + 0.02 * smooth_noise(gray.shape, 3, rng)
    white = 0.5 + 0.5 * np.tanh(14 * (ink - 0.42))
    tint = np.array([0.99, 0.985, 0.96])
    return np.clip(0.03 + blur(white, 0.5)[..., None] * (tint - 0.03), 0, 1)
