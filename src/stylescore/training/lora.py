"""The adapter that is trained: a LoRA in the layers of the U-Net, through peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stylescore.errors import ModelError
from stylescore.training.config import StyleTrainingConfig, Targets

ADAPTER = "style"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2")


def target_layers(unet: nn.Module, targets: Targets) -> list[str]:
    """Return the dotted names of the layers to adapt.

    Raises:
        ModelError: the network has no attention to adapt.
    """
    endings = ATTENTION if targets == "attention" else ATTENTION + CONVOLUTIONS
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    chosen = [name for name in layers if name.endswith(tuple(f".{ending}" for ending in endings))]
    if not any(".to_" in name for name in chosen):
        raise ModelError(
            f"a base that is trained needs attention layers, a {type(unet).__name__!r} without them was given",
            hint="use a model of the Stable Diffusion kind",
        )
    return chosen


def add_adapter(unet: Any, config: StyleTrainingConfig) -> dict[str, nn.Parameter]:
    """Add a fresh adapter to a frozen U-Net; it changes nothing at first.

    Args:
        unet: a diffusers `UNet2DConditionModel`.
        config: rank, alpha, targets and seed are used.

    Returns:
        The parameters that are trained, float32, by name.
    """
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    layers = target_layers(unet, config.targets)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers, init_lora_weights=True)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        unet.add_adapter(lora, adapter_name=ADAPTER)
    cast_training_params(unet, dtype=torch.float32)
    return {name: weight for name, weight in unet.named_parameters() if weight.requires_grad}


def adapter_state(unet: Any) -> dict[str, Tensor]:
    """Return the adapter's weights under peft's names, `a.b.lora_A.weight`."""
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(unet, adapter_name=ADAPTER))
