"""Loads a checkpoint that is one file in the original layout: Stable Diffusion 1.x, 2.x or SDXL.

Such a file holds weights only. The networks' settings come from `sd1/`, `sd2/` and `sdxl/` beside this module; the
tokenizer comes from a folder `tokenizer` beside the checkpoint, or from the hub's (or its cache's) copy of CLIP's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stylescore.catalog import families as facts
from stylescore.catalog.families import FamilyFacts
from stylescore.catalog.hub import download_tokenizer
from stylescore.diffusion.checkpoints.folders import (
    load_tokenizer,
    network_class,
    read_json,
    require_complete,
    silence_libraries,
    translate_errors,
)
from stylescore.diffusion.checkpoints.limits import refuse_scaled
from stylescore.diffusion.checkpoints.openclip import convert_openclip
from stylescore.diffusion.families import SD, SDXL, Checkpoint, ComponentSpec, Family
from stylescore.errors import ModelError, quote
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header
from stylescore.storage.texts import describe_error, is_file, read_text

_CLIP = "openai/clip-vit-large-patch14"
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_PREDICTION_TYPES = {
    **dict.fromkeys(("v", "v_pred", "v_prediction", "velocity"), "v_prediction"),
    **dict.fromkeys(("eps", "epsilon"), "epsilon"),
}
"""What checkpoints state, in small letters with underscores, and what it is called here."""
_PARAMETERIZATION = re.compile(r"""^[ \t]*parameterization:[ \t]*["']?([\w-]+)""", re.M)
_LARGEST_YAML = 2**20
_OPENCLIP_PAD_TOKEN = "!"
"""OpenCLIP has CLIP's vocabulary, but pads prompts with its first token."""


@dataclass(frozen=True)
class Layout:
    """How checkpoints of one family name their tensors.

    Attributes:
        facts: facts about the family.
        family: how its models are loaded.
        prefixes: what the names of a network's tensors begin with, by network.
    """

    facts: FamilyFacts
    family: Family
    prefixes: Mapping[str, str]

    @property
    def configs(self) -> Path:
        """Folder with the settings of the networks, in diffusers layout."""
        return Path(__file__).parent / self.facts.key

    def is_openclip(self, part: str) -> bool:
        """Tell whether a text model has OpenCLIP's tensor names instead of those of transformers."""
        return self.prefixes[part].endswith(".model.")


SD1_LAYOUT = Layout(facts.SD1, SD, {"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.transformer."})
SD2_LAYOUT = Layout(facts.SD2, SD, {"unet": _UNET, "vae": _VAE, "text_encoder": "cond_stage_model.model."})
SDXL_LAYOUT = Layout(
    facts.SDXL,
    SDXL,
    {
        "unet": _UNET,
        "vae": _VAE,
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
)
_UNSUPPORTED = {
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "lora_": "a LoRA",
    "control_model.": "a ControlNet",
}
_FOLDERS_ONLY = {
    "model.diffusion_model.joint_blocks.": facts.SD3,
    "model.diffusion_model.double_blocks.": facts.FLUX,
    "joint_blocks.": facts.SD3,
    "double_blocks.": facts.FLUX,
}
_FILE_HINT = "give a complete Stable Diffusion 1.x, 2.x or SDXL checkpoint, or a folder in diffusers layout"
_FOLDER_HINT = "give a folder in diffusers layout: model_index.json with transformer, vae, text encoders and tokenizers"
_TOKENIZER_HINT = f"without network, put the tokenizer's vocab.json and merges.txt (of {_CLIP}) into the folder "


def load_single_file(path: Path, dtype: torch.dtype, configs: Path | None = None) -> Checkpoint:
    """Load all components of a checkpoint.

    Args:
        path: a safetensors file with the original tensor names.
        dtype: precision of the weights.
        configs: folder with the settings of the networks, in diffusers layout; `None` for the released models'.

    Raises:
        ModelError: the file is invalid, of another family or lacks a component, or there is no tokenizer.
    """
    header = read_header(path, error=ModelError)
    refuse_scaled(path, header)
    stated = _stated_prediction(path, header)
    layout = _detect_layout(path, header)
    configs = configs or layout.configs
    tokenizers = {
        tokenizer.name: _load_tokenizer(path, layout.is_openclip(text.name))
        for tokenizer, text in layout.family.text_models
    }
    texts = [text for _, text in layout.family.text_models]
    others = [spec for spec in layout.family.networks if spec not in texts]
    networks = {
        **{spec.name: _load_network(path, spec, dtype, configs) for spec in others},
        **{spec.name: _load_text_model(path, spec, dtype, configs, layout) for spec in texts},
    }
    scheduler = read_json(configs / "scheduler" / "scheduler_config.json", "scheduler")
    prediction = stated or _measured_prediction(networks["unet"], layout)
    if layout is SD2_LAYOUT and prediction["prediction_type"] == "epsilon":
        # the 2.x models that predict noise were trained at the resolution of 1.x
        networks["unet"].register_to_config(sample_size=facts.SD1.native_cells)
    return Checkpoint(
        family=layout.family,
        networks=networks,
        tokenizers=tokenizers,
        scheduler_config=scheduler | prediction,
        index={},
    )


def _detect_layout(path: Path, header: SafetensorsHeader) -> Layout:
    """Detect the layout from the names of the text models, in which families differ most."""
    names = list(header.tensors)
    _refuse_unsupported(path, names)
    layouts = [SDXL_LAYOUT, SD2_LAYOUT, SD1_LAYOUT]
    layout = next((layout for layout in layouts if _has_prefix(names, layout.prefixes["text_encoder"])), SD1_LAYOUT)
    missing = [part for part, prefix in layout.prefixes.items() if not _has_prefix(names, prefix)]
    if len(missing) == len(layout.prefixes):
        raise ModelError(f"{str(path)!r} is no Stable Diffusion checkpoint", hint=_FILE_HINT)
    if missing:
        raise ModelError(f"{str(path)!r} lacks its {', '.join(missing)}", hint="get the complete checkpoint")
    return layout


def _refuse_unsupported(path: Path, names: Iterable[str]) -> None:
    known = list(names)
    for prefix, family in _FOLDERS_ONLY.items():
        if _has_prefix(known, prefix):
            reason = f"is a {family.label} checkpoint, which must be given as a folder"
            raise ModelError(f"{str(path)!r} {reason}", hint=_FOLDER_HINT)
    for prefix, kind in _UNSUPPORTED.items():
        if _has_prefix(known, prefix):
            raise ModelError(f"{str(path)!r} is {kind}, which cannot be used as a model file", hint=_FILE_HINT)


def _has_prefix(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _stated_prediction(path: Path, header: SafetensorsHeader) -> dict[str, Any]:
    """Return the scheduler settings that the file states, by tensors that are mere marks, in its metadata or beside it.

    Raises:
        ModelError: it states a prediction type that is not known.
    """
    if "v_pred" in header.tensors:
        return {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in header.tensors}
    stated = header.metadata.get("modelspec.prediction_type", "").strip() or _yaml_prediction(path)
    if not stated:
        return {}
    kind = _PREDICTION_TYPES.get(re.sub(r"[\s-]+", "_", stated.lower()))
    if kind is None:
        raise ModelError(
            f"{str(path)!r} has the prediction type {quote(stated)}, not one of {', '.join(sorted(_PREDICTION_TYPES))}",
            hint="give the model as a folder in diffusers layout, whose scheduler states what it predicts",
        )
    return {"prediction_type": kind}


def _yaml_prediction(path: Path) -> str:
    """Return the parameterization that the original code's settings beside a checkpoint state; empty if none."""
    settings = path.with_suffix(".yaml")
    if not is_file(settings):
        return ""
    try:
        match = _PARAMETERIZATION.search(read_text(settings, limit=_LARGEST_YAML))
    except (OSError, ValueError) as reason:
        raise ModelError(
            f"{str(settings)!r} cannot be read: {describe_error(reason)}", hint="download it again, or move it away"
        ) from reason
    return match[1] if match else ""


def _measured_prediction(unet: Any, layout: Layout) -> dict[str, Any]:
    """Return the scheduler settings that the weights show, for a layout that models of both kinds use."""
    if layout is not SD2_LAYOUT:
        return {}
    return {"prediction_type": "epsilon" if noise_slope(unet) > 0.5 else "v_prediction"}


@torch.no_grad()
def noise_slope(unet: Any) -> float:
    """Return the slope of a U-Net's output over pure noise as its input, at the last timestep.

    There z_t is almost only eps. A network that predicts eps returns it, with a slope near 1; one that predicts
    v = alpha eps - sigma z, with alpha near 0, returns almost none of it.
    """
    z_t = torch.randn(1, unet.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(1, 77, unet.config.cross_attention_dim)
    output = unet(z_t.to(unet.dtype), 999, encoder_hidden_states=tokens.to(unet.dtype)).sample.float()
    return float((output * z_t).sum() / z_t.square().sum())


def _load_tokenizer(path: Path, is_openclip: bool) -> Any:
    beside = path.parent / "tokenizer"
    try:
        tokenizer = load_tokenizer(beside if beside.is_dir() else download_tokenizer(_CLIP))
    except ModelError as reason:
        if beside.is_dir():
            raise
        raise ModelError(
            f"{str(path)!r} needs CLIP's tokenizer, which a single file does not hold: {reason}",
            hint=f"{_TOKENIZER_HINT}{str(beside)!r}",
        ) from reason
    if is_openclip:
        tokenizer.pad_token = _OPENCLIP_PAD_TOKEN
    return tokenizer


def _load_network(path: Path, spec: ComponentSpec, dtype: torch.dtype, configs: Path) -> Any:
    with silence_libraries(), translate_errors(path, spec.name):
        model = network_class(spec.kind).from_single_file(
            str(path), config=str(configs), subfolder=spec.name, torch_dtype=dtype, local_files_only=True
        )
    require_complete(path, spec.name, {"missing_keys": _missing_weights(model)})
    return model


def _missing_weights(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that were not in the file: they are still on the meta device."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _load_text_model(path: Path, spec: ComponentSpec, dtype: torch.dtype, configs: Path, layout: Layout) -> Any:
    from transformers import CLIPTextConfig

    with silence_libraries(), translate_errors(path, spec.name):
        config = CLIPTextConfig.from_pretrained(configs / spec.name)
        weights = _read_weights(path, layout.prefixes[spec.name])
        if layout.is_openclip(spec.name):
            weights = convert_openclip(weights, config.num_hidden_layers)
        model, info = network_class(spec.kind).from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    require_complete(path, spec.name, info)
    return model


def _read_weights(path: Path, prefix: str) -> Mapping[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
