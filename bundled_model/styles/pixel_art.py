"""Pixel art: large square pixels in a small bright palette."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bundled_model.styles.common import Picture, saturate, stretch

CELL = 8
COLOURS = 14


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Average over cells, quantise, enlarge without smoothing."""
    del rng
    rows, columns = (size // CELL for size in picture.shape[:2])
    small = picture[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL, 3).mean((1, 3))
    bright = (255 * saturate(stretch(small, 1, 99), 1.35)).round().astype(np.uint8)
    limited = Image.fromarray(bright).quantize(COLOURS, Image.Quantize.MEDIANCUT).convert("RGB")
    return np.kron(np.asarray(limited) / 255, np.ones((CELL, CELL, 1)))
