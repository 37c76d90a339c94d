"""Flat illustration: few even colours and dark outlines."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from bundled_model.styles.common import Picture, blur, kuwahara, luminance, saturate, stretch

COLOURS = 8


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Reduce to even areas and outline what stands out."""
    del rng
    smooth = kuwahara(kuwahara(kuwahara(picture, 8), 8), 6)
    vivid = saturate(stretch(smooth, 1, 99), 1.5) * 0.88 + 0.1
    areas = Image.fromarray((255 * vivid).astype(np.uint8)).quantize(COLOURS, Image.Quantize.MEDIANCUT)
    labels = ndimage.median_filter(np.asarray(areas), 7)
    palette = np.array(areas.getpalette()[: 3 * COLOURS]).reshape(-1, 3) / 255
    flat = palette[np.minimum(labels, len(palette) - 1)]
    slope = ndimage.gaussian_gradient_magnitude(luminance(smooth), 1.6)
    line = np.clip((slope - 0.035) / 0.03, 0, 1)
    return np.clip(blur(flat, 0.6) * (1 - 0.88 * blur(line, 0.6)[..., None]), 0, 1)
