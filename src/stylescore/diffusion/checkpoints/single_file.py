"""Loads a checkpoint that is one file in the original layout: Stable Diffusion 1.x, 2.x or SDXL.

Such a file has weights only. Shapes come from `sd1/`, `sd2/` and `sdxl/` beside this module; the words of the
tokenizer come from a folder `tokenizer` beside the checkpoint, or from the hub's (or its cache's) copy of CLIP's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stylescore.catalog.hub import download_tokenizer
from stylescore.diffusion.checkpoints.folders import (
    load_tokenizer,
    naming,
    network_class,
    quiet,
    read_json,
    require_complete,
)
from stylescore.diffusion.checkpoints.openclip import named_by_transformers
from stylescore.diffusion.families import SD, SDXL, Family, Part, Parts
from stylescore.errors import ModelError
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header

SD1, SD2, SDXL_SHAPES = (Path(__file__).parent / name for name in ("sd1", "sd2", "sdxl"))
CLIP = "openai/clip-vit-large-patch14"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}
SMALL_GRID = 64
"""Cells of the latents that those 2.x models were trained on which predict noise; the others have the larger ones."""
OPENCLIP_PAD = "!"
"""OpenCLIP has CLIP's words, but fills up with the first of them."""


@dataclass(frozen=True)
class Layout:
    """How one kind of checkpoint names its tensors.

    Attributes:
        family: of the model.
        configs: the shapes of its parts, in diffusers layout.
        prefixes: what the names of a part's tensors begin with, by part.
    """

    family: Family
    configs: Path
    prefixes: Mapping[str, str]

    def openclip(self, part: str) -> bool:
        """Tell whether a text model has OpenCLIP's names instead of those of transformers."""
        return self.prefixes[part].endswith(".model.")


SD1_LAYOUT = Layout(SD, SD1, {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.transformer."})
SD2_LAYOUT = Layout(SD, SD2, {"unet": UNET, "vae": VAE, "text_encoder": "cond_stage_model.model."})
SDXL_LAYOUT = Layout(
    SDXL,
    SDXL_SHAPES,
    {
        "unet": UNET,
        "vae": VAE,
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
)
OTHERS = {
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "lora_": "a LoRA",
    "control_model.": "a ControlNet",
}
AS_FOLDERS = {
    "model.diffusion_model.joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "model.diffusion_model.double_blocks.": "a Flux checkpoint",
    "joint_blocks.": "a Stable Diffusion 3 checkpoint",
    "double_blocks.": "a Flux checkpoint",
}
FILE_HINT = "single files must be Stable Diffusion 1.x, 2.x or SDXL checkpoints with all their parts"
FOLDER_HINT = "give a folder in diffusers layout: model_index.json with transformer, vae, text encoders and tokenizers"
TOKENIZER_HINT = f"without network, put the tokenizer's vocab.json and merges.txt (of {CLIP}) into the folder "


def load_single_file(path: Path, dtype: torch.dtype, configs: Path | None = None) -> Parts:
    """Load all parts of a checkpoint.

    Args:
        path: a safetensors file with the original tensor names.
        dtype: precision of the weights.
        configs: the shapes of its parts, in diffusers layout; `None` for those of the released models.

    Raises:
        ModelError: when it is unsound, of another family, lacks a part, or no tokenizer can be had.
    """
    header = read_header(path, error=ModelError)
    layout = _layout(path, header)
    configs = configs or layout.configs
    tokenizers = {
        tokenizer.name: _tokenizer(path, layout.openclip(text.name)) for tokenizer, text in layout.family.texts
    }
    texts = [text for _, text in layout.family.texts]
    networks = {
        **{part.name: _load_network(path, part, dtype, configs) for part in layout.family.parts if part not in texts},
        **{part.name: _load_text_encoder(path, part, dtype, configs, layout) for part in texts},
    }
    scheduler = read_json(configs / "scheduler" / "scheduler_config.json", "scheduler")
    stated = _stated(header) or _found(networks["unet"], layout)
    if layout is SD2_LAYOUT and stated["prediction_type"] == "epsilon":
        networks["unet"].register_to_config(sample_size=SMALL_GRID)
    return Parts(
        family=layout.family,
        networks=networks,
        tokenizers=tokenizers,
        scheduler_config=scheduler | stated,
        index={},
    )


def _layout(path: Path, header: SafetensorsHeader) -> Layout:
    """Tell the layout by the names of the text models, which differ most."""
    names = list(header.tensors)
    _refuse(path, names)
    by_text = [SDXL_LAYOUT, SD2_LAYOUT, SD1_LAYOUT]
    layout = next((layout for layout in by_text if _has(names, layout.prefixes["text_encoder"])), SD1_LAYOUT)
    lacking = [part for part, prefix in layout.prefixes.items() if not _has(names, prefix)]
    if len(lacking) == len(layout.prefixes):
        raise ModelError(f"{str(path)!r} is no Stable Diffusion checkpoint", hint=FILE_HINT)
    if lacking:
        raise ModelError(f"{str(path)!r} lacks its {', '.join(lacking)}", hint="get the full checkpoint")
    return layout


def _refuse(path: Path, names: Iterable[str]) -> None:
    known = list(names)
    for prefix, kind in AS_FOLDERS.items():
        if _has(known, prefix):
            raise ModelError(f"{str(path)!r} is {kind}, which must be given as a folder", hint=FOLDER_HINT)
    for prefix, kind in OTHERS.items():
        if _has(known, prefix):
            raise ModelError(f"{str(path)!r} is {kind}, which cannot be used as a model file", hint=FILE_HINT)


def _has(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _stated(header: SafetensorsHeader) -> dict[str, Any]:
    """Return what the file itself says about its prediction: in its metadata, or by tensors that are mere marks."""
    if "v_pred" in header.tensors:
        return {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in header.tensors}
    told = header.metadata.get("modelspec.prediction_type", "")
    return {"prediction_type": PREDICTIONS[told]} if told in PREDICTIONS else {}


def _found(unet: Any, layout: Layout) -> dict[str, Any]:
    """Return what the weights themselves show, where a layout is used by models of both kinds."""
    if layout is not SD2_LAYOUT:
        return {}
    return {"prediction_type": "epsilon" if noise_share(unet) > 0.5 else "v_prediction"}


@torch.no_grad()
def noise_share(unet: Any) -> float:
    """Return how much of pure noise a U-Net gives back at the last timestep: the slope of its output over its input.

    There z_t is almost nothing but eps. A network that predicts eps gives it back, so the slope is near 1; one that
    predicts v = alpha eps - sigma z, with alpha near 0, finds next to none of it.
    """
    z_t = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    words = torch.zeros(1, 77, unet.config.cross_attention_dim)
    output = unet(z_t.to(unet.dtype), 999, encoder_hidden_states=words.to(unet.dtype)).sample.float()
    return float((output * z_t).sum() / z_t.square().sum())


def _tokenizer(path: Path, openclip: bool) -> Any:
    beside = path.parent / "tokenizer"
    try:
        tokenizer = load_tokenizer(beside if beside.is_dir() else download_tokenizer(CLIP))
    except ModelError as reason:
        if beside.is_dir():
            raise
        raise ModelError(
            f"{str(path)!r} needs CLIP's tokenizer, which a single file does not hold: {reason}",
            hint=f"{TOKENIZER_HINT}{str(beside)!r}",
        ) from reason
    if openclip:
        tokenizer.pad_token = OPENCLIP_PAD
    return tokenizer


def _load_network(path: Path, part: Part, dtype: torch.dtype, configs: Path) -> Any:
    with quiet(), naming(path, part.name):
        model = network_class(part.kind).from_single_file(
            str(path), config=str(configs), subfolder=part.name, torch_dtype=dtype, local_files_only=True
        )
    require_complete(path, part.name, {"missing_keys": _unfilled(model)})
    return model


def _unfilled(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that the file did not fill, which stay without storage."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _load_text_encoder(path: Path, part: Part, dtype: torch.dtype, configs: Path, layout: Layout) -> Any:
    from transformers import CLIPTextConfig

    with quiet(), naming(path, part.name):
        config = CLIPTextConfig.from_pretrained(configs / part.name)
        weights = _weights(path, layout.prefixes[part.name])
        if layout.openclip(part.name):
            weights = named_by_transformers(weights, config.num_hidden_layers)
        model, info = network_class(part.kind).from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    require_complete(path, part.name, info)
    return model


def _weights(path: Path, prefix: str) -> Mapping[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
