"""Loads a Stable Diffusion 1.x checkpoint that is one file in the original layout.

Such a file has weights only. Shapes come from `sd1/` beside this module; the words of the tokenizer come from
a folder `tokenizer` beside the checkpoint, or from the hub's (or its cache's) copy of CLIP's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stylescore.diffusion.folders import (
    SUPPORTED,
    Parts,
    load_tokenizer,
    naming,
    network_class,
    quiet,
    read_json,
    require_complete,
)
from stylescore.errors import ModelError
from stylescore.models.hub import download_tokenizer
from stylescore.safetensors_header import SafetensorsHeader, read_header

SD1 = Path(__file__).parent / "sd1"
CLIP = "openai/clip-vit-large-patch14"
TEXT = "cond_stage_model.transformer."
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": TEXT}
OTHERS = {
    "conditioner.embedders.": "an SDXL checkpoint",
    "cond_stage_model.model.": "a Stable Diffusion 2.x checkpoint",
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "double_blocks.": "a Flux checkpoint",
    "lora_": "a LoRA",
    "control_model.": "a ControlNet",
}
FOLDER_HINT = f"single files must be Stable Diffusion 1.x; as a diffusers folder, {SUPPORTED}"
TOKENIZER_HINT = f"without network, put the tokenizer's vocab.json and merges.txt (of {CLIP}) into the folder "


def load_single_file(path: Path, dtype: torch.dtype, configs: Path = SD1) -> Parts:
    """Load all parts of a checkpoint.

    Args:
        path: a safetensors file with the original tensor names.
        dtype: precision of the weights.
        configs: the shapes of its parts, in diffusers layout.

    Raises:
        ModelError: when it is unsound, of another family, lacks a part, or no tokenizer can be had.
    """
    _require_family(path, read_header(path, error=ModelError))
    tokenizer = _tokenizer(path)
    return Parts(
        unet=_load_network(path, "unet", dtype, configs),
        vae=_load_network(path, "vae", dtype, configs),
        text_encoder=_load_text_encoder(path, dtype, configs),
        tokenizer=tokenizer,
        scheduler_config=read_json(configs / "scheduler" / "scheduler_config.json", "scheduler"),
    )


def _require_family(path: Path, header: SafetensorsHeader) -> None:
    names = list(header.tensors)
    for prefix, kind in OTHERS.items():
        if any(name.startswith(prefix) for name in names):
            raise ModelError(f"{str(path)!r} is {kind}, which cannot be used as a model file", hint=FOLDER_HINT)
    lacking = [part for part, prefix in PREFIXES.items() if not any(name.startswith(prefix) for name in names)]
    if len(lacking) == len(PREFIXES):
        raise ModelError(f"{str(path)!r} is no Stable Diffusion checkpoint", hint=FOLDER_HINT)
    if lacking:
        raise ModelError(f"{str(path)!r} lacks its {', '.join(lacking)}", hint="get the full checkpoint")


def _tokenizer(path: Path) -> Any:
    beside = path.parent / "tokenizer"
    if beside.is_dir():
        return load_tokenizer(beside)
    try:
        return load_tokenizer(download_tokenizer(CLIP))
    except ModelError as reason:
        raise ModelError(
            f"{str(path)!r} needs CLIP's tokenizer, which a single file does not hold: {reason}",
            hint=f"{TOKENIZER_HINT}{str(beside)!r}",
        ) from reason


def _load_network(path: Path, part: str, dtype: torch.dtype, configs: Path) -> Any:
    with quiet(), naming(path, part):
        model = network_class(part).from_single_file(
            str(path), config=str(configs), subfolder=part, torch_dtype=dtype, local_files_only=True
        )
    require_complete(path, part, {"missing_keys": _unfilled(model)})
    return model


def _unfilled(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that the file did not fill, which stay without storage."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _load_text_encoder(path: Path, dtype: torch.dtype, configs: Path) -> Any:
    from transformers import CLIPTextConfig

    with quiet(), naming(path, "text_encoder"):
        config = CLIPTextConfig.from_pretrained(configs / "text_encoder")
        model, info = network_class("text_encoder").from_pretrained(
            None, config=config, state_dict=_text_weights(path), dtype=dtype, output_loading_info=True
        )
    require_complete(path, "text_encoder", info)
    return model


def _text_weights(path: Path) -> Mapping[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(TEXT)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(TEXT): file.get_tensor(name) for name in names}
