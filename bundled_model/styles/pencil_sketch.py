"""Pencil sketch: graphite outlines and hatching in up to three directions on paper."""

from __future__ import annotations

import numpy as np

from bundled_model.styles.common import Picture, blur, edges, luminance, smooth_noise, stretch

HATCHES = ((0.95, 0.62, 6.5), (2.35, 0.42, 6.0), (0.25, 0.24, 5.5))
"""Angle, tone under which the hatch appears, and distance of its lines."""


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Draw the picture with a soft pencil."""
    tone = stretch(blur(luminance(picture), 1.2))
    ink = 0.95 * (1 - edges(tone, 1.5, 0.97, 40))
    pressure = 1 + 0.25 * smooth_noise(tone.shape, 10, rng)
    ink = np.maximum(ink, 0.42 * (1 - tone) ** 1.6)
    for angle, threshold, period in HATCHES:
        strength = np.clip((threshold - blur(tone, 1.5)) / 0.22, 0, 1)
        ink = np.maximum(ink, 0.85 * strength * hatch(tone.shape, angle, period, rng))
    ink = np.clip(ink * pressure, 0, 0.92)
    grain = 1 + 0.025 * smooth_noise(tone.shape, 1.2, rng)
    paper = np.array([0.965, 0.95, 0.915])
    graphite = np.array([0.18, 0.18, 0.2])
    return np.clip((paper + ink[..., None] * (graphite - paper)) * grain[..., None], 0, 1)


def hatch(shape: tuple[int, int], angle: float, period: float, rng: np.random.Generator) -> np.ndarray:
    """Slightly wavering parallel lines, 1 on a line."""
    rows, columns = np.indices(shape)
    wave = rows * np.cos(angle) + columns * np.sin(angle) + 0.9 * smooth_noise(shape, 9, rng)
    lines = 0.5 + 0.5 * np.cos(2 * np.pi * wave / period + rng.uniform(0, 6.28))
    broken = np.clip(1 + 0.5 * smooth_noise(shape, 5, rng), 0.3, 1)
    return lines**1.5 * broken
