"""Loads the ControlNet of a run and checks that it belongs to the model's U-Net.

Source: "Adding Conditional Control to Text-to-Image Diffusion Models", ICCV 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stylescore.catalog.families import usual_control
from stylescore.catalog.hub import download_control
from stylescore.catalog.registry import CONTROL_FOLDER, ModelSource
from stylescore.diffusion.checkpoints.folders import load_alone, require_facts
from stylescore.diffusion.checkpoints.loading import Components
from stylescore.errors import ModelError

_KIND = "ControlNetModel"
_PART = "ControlNet"
_COLOURS = 3
_FIT_HINT = "choose a ControlNet of the model's family with --control-model"


def load_control(kind: str, given: ModelSource | None, parts: Components, device: torch.device) -> Any:
    """Load a ControlNet for a model's U-Net.

    Args:
        kind: what it follows, for the usual one.
        given: folder or hub id; `None` takes the usual one of the model's family.
        parts: the model.
        device: where it runs.

    Raises:
        ModelError: the family takes none, there is no usual one, or it is invalid or does not fit the model.
    """
    if not parts.family.takes_control:
        raise ModelError(
            f"control is for Stable Diffusion 1.x, 2.x and SDXL, the model is {parts.family.label}",
            hint="leave out --control",
        )
    folder = _folder_of(given, kind, parts)
    network = load_alone(folder, _KIND, _PART, parts.network.dtype, (CONTROL_FOLDER, _FIT_HINT))
    _require_fit(folder, network, parts.network)
    return network.to(device)


def _folder_of(given: ModelSource | None, kind: str, parts: Components) -> Path:
    if given is not None and given.kind == "folder":
        return Path(given.location)
    name = usual_control(kind, parts.text_width) if given is None else str(given.location)
    if name is None:
        raise ModelError(f"there is no usual ControlNet for {kind} on {parts.name!r}", hint="give --control-model")
    return download_control(name)


def _require_fit(folder: Path, network: Any, unet: Any) -> None:
    """Raise `ModelError` unless a ControlNet reads colour pictures and has the sizes of the U-Net."""
    names = {
        "in_channels": "latent channels",
        "block_out_channels": "block widths",
        "cross_attention_dim": "text width",
    }
    facts: Mapping[str, tuple[Any, Any]] = {
        label: (_plain(network.config[name]), _plain(unet.config[name])) for name, label in names.items()
    }
    channels = network.config.get("conditioning_channels", _COLOURS)
    require_facts(_PART, folder, {**facts, "picture channels": (channels, _COLOURS)}, _FIT_HINT)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
