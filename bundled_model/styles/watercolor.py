"""Watercolor: flat pale washes with dark rims, blooms and paper that shines through."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bundled_model.styles.common import Picture, blur, kuwahara, luminance, saturate, smooth_noise, warp


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Lay the picture as washes on white paper."""
    shape = picture.shape[:2]
    moved = warp(picture, 2.2 * smooth_noise(shape, 6, rng), 2.2 * smooth_noise(shape, 6, rng))
    wash = kuwahara(kuwahara(moved, 8), 8)
    steps = np.round(luminance(wash) * 5) / 5
    wash = saturate(wash, 1.6) * 0.55 + 0.42
    wash = wash + 0.25 * (steps - luminance(wash))[..., None]
    rim = np.clip(8 * ndimage.morphological_gradient(blur(steps, 0.7), 3) - 0.3, 0, 1)
    pigment = 1 + 0.07 * smooth_noise(shape, 14, rng) + 0.04 * smooth_noise(shape, 1.5, rng)
    tinted = 1 - (1 - np.clip(wash, 0, 1)) * (pigment + 0.45 * blur(rim, 0.8))[..., None]
    bare = margin(shape, rng)
    return np.clip(tinted * (1 - bare) + 0.98 * bare, 0, 1)


def margin(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A ragged unpainted border, 1 on bare paper."""
    rows, columns = np.indices(shape)
    inside = np.minimum.reduce([rows, columns, shape[0] - 1 - rows, shape[1] - 1 - columns])
    ragged = inside - 7 + 4 * smooth_noise(shape, 7, rng)
    return 1 / (1 + np.exp(np.clip(ragged, -30, 30)))[..., None]
