"""Scales grey pictures of 16 bits, 32 bits or floats to 8 bits without clipping."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DEEP = ("I", "F")


def is_deep(image: Image.Image) -> bool:
    """Return whether `image` has one channel of more than 8 bits."""
    return image.mode.startswith(_DEEP)


def to_eight_bits(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Scale a grey picture of more than 8 bits to 8 bits.

    Integers are read as 16-bit (0 to 65535), floats as 0 to 1, or as 0 to 255 if one is above 1. If a value is outside
    these ranges, the smallest becomes black and the largest white, and a note says so. NaN becomes 0.

    Args:
        image: a picture for which `is_deep` holds.

    Returns:
        An "L" picture of the same size, and a note or `None`.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = _white_level(image.mode, low, high)
    if top is not None:
        return _scale(values, 0.0, top), None
    return _scale(values, low, high), f"values from {low:g} to {high:g} were scaled to black and white"


def _white_level(mode: str, low: float, high: float) -> float | None:
    """Return the value that means white, or `None` if the values are outside the usual ranges."""
    tops = (1.0, 255.0) if mode == "F" else (65535.0,)
    return next((top for top in tops if low >= 0 and high <= top), None)


def _scale(values: NDArray[np.float64], low: float, high: float) -> Image.Image:
    span = max(high - low, np.finfo(np.float64).tiny)
    unit = (np.clip(values, low, high) - low) / span
    return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
