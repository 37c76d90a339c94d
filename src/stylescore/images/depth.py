"""Grey pictures of 16 and 32 bits and floats, brought to 8 bits without clipping."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DEEP = ("I", "F")


def is_deep(image: Image.Image) -> bool:
    """Tell whether `image` has one channel of more than 8 bits."""
    return image.mode.startswith(_DEEP)


def to_eight_bits(image: Image.Image) -> tuple[Image.Image, str | None]:
    """Scale a deep grey picture to 8 bits.

    Integers are taken as 16-bit (0 to 65535) and floats as 0 to 1, else 0 to 255. Values outside that range
    have no agreed meaning: there the least becomes black and the greatest white, and a note says so. NaN
    counts as 0.

    Args:
        image: a picture for which `is_deep` holds.

    Returns:
        An "L" picture of the same size, and a note or `None`.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    top = _white(image.mode, low, high)
    if top is not None:
        return _scaled(values, 0.0, top), None
    return _scaled(values, low, high), f"values from {low:g} to {high:g} were stretched to black and white"


def _white(mode: str, low: float, high: float) -> float | None:
    """Return the value that means white, or `None` when the values fit no convention."""
    tops = (1.0, 255.0) if mode == "F" else (65535.0,)
    return next((top for top in tops if low >= 0 and high <= top), None)


def _scaled(values: NDArray[np.float64], low: float, high: float) -> Image.Image:
    span = max(high - low, np.finfo(np.float64).tiny)
    unit = (np.clip(values, low, high) - low) / span
    return Image.fromarray(np.rint(unit * 255).astype(np.uint8))
