"""A few weights of a network, in text, by which a style's file says which base it was trained on.

A hash would differ between precisions of one checkpoint; some of the weights themselves can be compared with a
tolerance, whatever the precision, the file's layout or the device.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from stylescore.catalog.metadata import BASE_WEIGHTS

VALUES: Final = 512
"""About as many weights are taken, at least one of every matrix and kernel."""
_LARGEST: Final = 65504.0
"""Of float16, in which they are written."""
_TOLERANCE: Final = 0.05
"""Between rounding to 8 bits (0.025) and a model that was trained anew (0.6 for the bundled one)."""


def fingerprint(network: nn.Module) -> str | None:
    """Return some weights of a network in base64; `None` if its weights are quantised.

    The network must be as it was loaded, without adapters.
    """
    values = _sample(network)
    return None if values is None else base64.b64encode(values.half().numpy().astype("<f2").tobytes()).decode("ascii")


def other_base(metadata: Mapping[str, str], network: nn.Module) -> str | None:
    """Return one line if a style's metadata state that its base had other weights than this network, else `None`."""
    distance = relative_distance(metadata.get(BASE_WEIGHTS, ""), network)
    if distance is None or distance <= _TOLERANCE:
        return None
    return f"it was trained on other weights than the model's, which differ by {distance:.0%}; train it again on them"


def relative_distance(stated: str, network: nn.Module) -> float | None:
    """Return how far a network's weights are from a fingerprint, sum |w - w'| / sum |w'|.

    `None` if they cannot be compared: the weights are quantised, or the text is that of more or fewer matrices, or no
    fingerprint at all.
    """
    values, before = _sample(network), _decode(stated)
    if values is None or before is None or len(before) != len(values) or not bool(before.any()):
        return None
    return float((values - before).abs().sum() / before.abs().sum())


def _decode(stated: str) -> Tensor | None:
    try:
        data = base64.b64decode(stated, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not data or len(data) % 2:
        return None
    values = torch.frombuffer(bytearray(data), dtype=torch.float16).float()
    return values if bool(values.isfinite().all()) else None


def _sample(network: nn.Module) -> Tensor | None:
    """Return evenly spaced weights of every matrix and kernel, in the order of their names, [values]."""
    weights = [weight.detach() for _, weight in sorted(network.named_parameters()) if weight.ndim > 1]
    if not weights or not all(weight.is_floating_point() for weight in weights):
        return None
    count = -(-VALUES // len(weights))
    found = torch.cat([_evenly(weight, count) for weight in weights])
    return found.clamp(-_LARGEST, _LARGEST) if bool(found.isfinite().all()) else None


def _evenly(weight: Tensor, count: int) -> Tensor:
    """Return `count` entries of a tensor, in the middles of as many equal stretches of its rows."""
    places = [(2 * number + 1) * weight.numel() // (2 * count) for number in range(count)]
    return weight.flatten()[torch.tensor(places, device=weight.device)].float().cpu()
