"""The pictures that ControlNets follow: a photo's edges, or the photo itself."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stylescore.errors import ConfigError

LOW, HIGH = 100, 200
"""Canny's thresholds, as the edge ControlNets of diffusers are shown with."""


def control_picture(photo: Image.Image, kind: str) -> Image.Image:
    """Return what a ControlNet follows, an "RGB" picture of the photo's size.

    Args:
        photo: at the size that the model works at.
        kind: `edges`, white lines on black by Canny's detector ("A Computational Approach to Edge Detection", PAMI
            1986), or `tile`, the photo itself.

    Raises:
        ConfigError: edges are wanted, and OpenCV is not installed.
    """
    if kind == "tile":
        return photo.convert("RGB")
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "--control edges needs OpenCV, which is not installed", hint="pip install 'stylescore[control]'"
        ) from error
    edges = cv2.Canny(np.asarray(photo.convert("RGB")), LOW, HIGH)
    return Image.fromarray(np.asarray(edges, dtype=np.uint8)).convert("RGB")
