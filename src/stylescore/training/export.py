"""The trained adapter as one LoRA file that other programs can use: kohya's names, an alpha for every layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from stylescore.lora import Product
from stylescore.storage.safetensors_header import sort_metadata
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.lora import adapter_state, is_written
from stylescore_apply.storage.files import atomic


def kohya_tensors(unet: Any, config: StyleTrainingConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the adapter of a U-Net under kohya's names, `lora_unet_a_b.lora_down.weight`.

    Args:
        unet: a U-Net with our adapter.
        config: alpha is written for every layer, diffusers' conversion would write the rank; targets say which
            layers are written.
        dtype: of all tensors.
    """
    state = {name: tensor.detach() for name, tensor in adapter_state(unet).items() if is_written(name, config.targets)}
    return _name_tensors(state, config.alpha, dtype)


def changes_tensors(changes: Mapping[str, Product], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return low-rank changes of one rank and scale, by a U-Net's layers, under kohya's names."""
    state = {
        f"{name}.{end}.weight": tensor
        for name, change in changes.items()
        for end, tensor in (("lora_A", change.down), ("lora_B", change.up))
    }
    alphas = {change.scale * change.rank for change in changes.values()}
    (alpha,) = alphas
    return _name_tensors(state, alpha, dtype)


def _name_tensors(state: Mapping[str, Tensor], alpha: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return weights under peft's names, `a.b.lora_A.weight`, under kohya's, with an alpha for every layer."""
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    named = convert_state_dict_to_kohya({f"unet.{name}": tensor for name, tensor in state.items()})
    return {
        name: torch.tensor(alpha, dtype=dtype) if name.endswith(".alpha") else tensor.to("cpu", dtype).contiguous()
        for name, tensor in named.items()
    }


def lora_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the content of a LoRA file; the same tensors and metadata give the same bytes."""
    return sort_metadata(save(dict(tensors), dict(metadata)))


def write_lora(path: Path, data: bytes) -> None:
    """Write a LoRA file, whole or not at all; until it is whole, nobody takes it for a style.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic(path, suffix=".tmp") as temporary:
        temporary.write_bytes(data)
