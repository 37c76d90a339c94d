"""Write a PEFT adapter of a U-Net as a LoRA file with kohya's key names and metadata."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

BASE = "stylescore-mini"


def kohya_keys(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Rename ``a.b.lora_A.weight`` to ``lora_unet_a_b.lora_down.weight`` and add every alpha."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        layer, side = key.removesuffix(".weight").rsplit(".", 1)
        stem = "lora_unet_" + layer.replace(".", "_")
        part = {"lora_A": "lora_down", "lora_B": "lora_up"}[side]
        renamed[f"{stem}.{part}.weight"] = value.detach().half().contiguous()
        renamed[f"{stem}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
    return renamed


def metadata(title: str, trigger: str, rank: int, alpha: float, steps: int, pictures: int) -> dict[str, str]:
    """What other programs look for in a LoRA file, and what we want to remember."""
    return {
        "ss_base_model_version": BASE,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": f'{{"conv_dim": "{rank}", "conv_alpha": "{alpha:g}"}}',
        "ss_steps": str(steps),
        "ss_num_train_images": str(pictures),
        "modelspec.architecture": BASE,
        "modelspec.title": title,
        "modelspec.trigger_phrase": trigger,
        "modelspec.license": "Apache-2.0",
    }


def write(unet: UNet2DConditionModel, path: Path, notes: dict[str, str]) -> None:
    """Save the U-Net's only adapter."""
    state = get_peft_model_state_dict(unet)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kohya_keys(state, float(notes["ss_network_alpha"])), path, notes)
