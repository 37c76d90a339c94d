"""The adapter that is trained: a LoRA in the layers of the U-Net, through peft."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.catalog.families import SDXL
from stylescore.diffusion.adapters import adaptable
from stylescore.errors import ConfigError, ModelError
from stylescore.lora import Product
from stylescore.training.config import StyleTrainingConfig, Targets

ADAPTER = "style"
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
ATTENTION = (*PROJECTIONS, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2")
NAMED: tuple[Targets, ...] = ("attention", "attention+conv", "b-lora")
"""Targets that a network's layers define."""


def target_layers(unet: nn.Module, targets: Targets) -> list[str]:
    """Return the dotted names of the layers to adapt.

    Raises:
        ModelError: the network has no attention to adapt, or lacks the blocks of SDXL.
    """
    if targets == "b-lora":
        return _b_lora_layers(unet)
    chosen = _find_layers(unet, ATTENTION if targets == "attention" else ATTENTION + CONVOLUTIONS)
    if not any(".to_" in name for name in chosen):
        raise ModelError(
            f"a base that is trained needs attention layers, a {type(unet).__name__!r} without them was given",
            hint="use a model of the Stable Diffusion kind",
        )
    return chosen


def _b_lora_layers(unet: nn.Module) -> list[str]:
    blocks = (f"{SDXL.content_block}.", f"{SDXL.style_block}.")
    layers = _find_layers(unet, PROJECTIONS)
    if not all(any(name.startswith(block) for name in layers) for block in blocks):
        raise ModelError(
            f"targets b-lora needs the blocks {SDXL.content_block} and {SDXL.style_block} of SDXL, which this base "
            "does not have",
            hint="use a model of the SDXL kind, or --targets attention",
        )
    return [name for name in layers if name.startswith(blocks)]


def _find_layers(unet: nn.Module, endings: tuple[str, ...]) -> list[str]:
    """Return the layers whose dotted names end so."""
    return [name for name in adaptable(unet) if name.endswith(tuple(f".{ending}" for ending in endings))]


def is_written(layer: str, targets: Targets) -> bool:
    """Return whether the style's file has a layer: of the two blocks of B-LoRA, only that of the style."""
    return targets != "b-lora" or layer.startswith(f"{SDXL.style_block}.")


def match_targets(unet: nn.Module, layers: Collection[str], given: Targets | None) -> Targets:
    """Return the name of the targets whose files have exactly these layers, or "from".

    Raises:
        ConfigError: `given` are others.
    """
    other: Targets = "from"
    found = next((name for name in NAMED if set(layers) == set(_written_layers(unet, name))), other)
    if given not in (None, found):
        raise ConfigError(
            f"--targets {given} contradicts the LoRA that the training goes on from, whose {len(layers)} layers are "
            f"{'others' if found == 'from' else f'those of {found}'}",
            hint="leave --targets out",
        )
    return found


def _written_layers(unet: nn.Module, targets: Targets) -> list[str]:
    try:
        return [name for name in target_layers(unet, targets) if is_written(name, targets)]
    except ModelError:
        return []


def add_adapter(
    unet: Any, config: StyleTrainingConfig, start: Mapping[str, Product] | None = None
) -> dict[str, nn.Parameter]:
    """Add an adapter to a frozen U-Net; without `start` it changes nothing at first.

    Args:
        unet: a diffusers `UNet2DConditionModel`.
        config: rank, alpha, targets and seed are used.
        start: weights that its layers begin with.

    Returns:
        The parameters that are trained, float32, by name.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    layers = list(start) if start and config.targets == "from" else target_layers(unet, config.targets)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers, init_lora_weights=True)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        unet.add_adapter(lora, adapter_name=ADAPTER)
    cast_training_params(unet, dtype=torch.float32)
    _copy_weights(unet, start or {})
    return {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}


@torch.no_grad()
def _copy_weights(unet: nn.Module, start: Mapping[str, Product]) -> None:
    """Copy the two factors of each layer into the adapter."""
    for name, product in start.items():
        layer: Any = unet.get_submodule(name)
        down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        down.copy_(product.down.reshape(down.shape))
        up.copy_(product.up.reshape(up.shape))


def adapter_state(unet: Any) -> dict[str, Tensor]:
    """Return the adapter's weights under peft's names, `a.b.lora_A.weight`."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(unet, adapter_name=ADAPTER))
