"""Loads the weights of the networks behind the figures from installed packages, without importing those."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.quality.judging import Network
from stylescore.catalog.places import how_to_get, locate
from stylescore.errors import ModelError
from stylescore.metrics import MobileNetFeatures, PerceptualDistance
from stylescore.metrics.states import read_state


def _installed(name: str) -> Path:
    """Return the file of a network's weights.

    Raises:
        ModelError: it is not installed.
    """
    found = locate(name, {})
    if found is None:
        raise ModelError(f"the weights {name!r} are not installed", hint=how_to_get(name))
    return found.path


def _on(device: torch.device, network: torch.nn.Module) -> Network:
    """Return a network that computes on a device, from tensors on the CPU to tensors on the CPU."""
    network.to(device)

    def run(*pictures: Tensor) -> Tensor:
        return network(*(some.to(device) for some in pictures)).cpu()

    return run


def load_networks(device: torch.device) -> tuple[Network, Network]:
    """Load the networks for perceptual distance and for features, to compute on a device.

    Raises:
        ModelError: their weights are not installed, or cannot be read.
    """
    states = [read_state(_installed(name)) for name in ("st-lpips", "mobilenet")]
    return _on(device, PerceptualDistance.from_state(states[0])), _on(device, MobileNetFeatures.from_state(states[1]))
