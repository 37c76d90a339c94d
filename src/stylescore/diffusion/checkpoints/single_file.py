"""Loads a checkpoint that is one file in the original layout, in safetensors or GGUF format.

Such a file holds weights only. The networks' settings come from the folders named after families beside this module and
from the shapes of the tensors; tokenizers come from folders beside the checkpoint, or from the hub's (or its cache's)
copies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from stylescore.catalog import families as facts
from stylescore.catalog.hub import download_tokenizer
from stylescore.diffusion.checkpoints import gguf
from stylescore.diffusion.checkpoints.folders import (
    load_tokenizer,
    network_class,
    read_json,
    require_complete,
    silence_libraries,
    translate_errors,
)
from stylescore.diffusion.checkpoints.layouts import (
    LAYOUTS,
    NETWORK,
    SD2_LAYOUT,
    SD3_LAYOUT,
    Layout,
    Shapes,
    detect_layout,
)
from stylescore.diffusion.checkpoints.limits import refuse_packed
from stylescore.diffusion.checkpoints.openclip import convert_openclip
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.checkpoints.scaled import check_scaled, is_scaled, read_weights
from stylescore.diffusion.checkpoints.transformer_settings import transformer_settings
from stylescore.diffusion.families import Checkpoint, ComponentSpec
from stylescore.errors import ModelError, quote
from stylescore.storage.safetensors_header import read_header
from stylescore.storage.texts import describe_error, is_file, read_text

_CLIP = "openai/clip-vit-large-patch14"
_T5 = "google-t5/t5-base"
"""T5 v1.1, which encodes prompts, has the vocabulary of T5; this copy has it as `tokenizer.json`."""
_PREDICTION_TYPES = {
    **dict.fromkeys(("v", "v_pred", "v_prediction", "velocity"), "v_prediction"),
    **dict.fromkeys(("eps", "epsilon"), "epsilon"),
}
"""What checkpoints state, in small letters with underscores, and what it is called here."""
_PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
"""Metadata that state it: the ModelSpec's key, and the one that ComfyUI writes."""
_PARAMETERIZATION = re.compile(r"""^[ \t]*parameterization:[ \t]*["']?([\w-]+)""", re.M)
_LARGEST_YAML = 2**20
_AVERAGED = "model_ema."
_OPENCLIP_PAD_TOKEN = "!"
"""OpenCLIP has CLIP's vocabulary, but pads prompts with its first token."""


@dataclass(frozen=True)
class SingleFile:
    """A checkpoint file, its tensors not yet loaded.

    Attributes:
        path: the file.
        shapes: of its tensors.
        metadata: of its header; GGUF files state nothing of use.
        layout: how its tensors are named.
        configs: folder with the settings of the networks, in diffusers layout.
    """

    path: Path
    shapes: Shapes
    metadata: Mapping[str, str]
    layout: Layout
    configs: Path

    @property
    def is_gguf(self) -> bool:
        """Whether the file is in GGUF format."""
        return gguf.is_gguf(self.path)

    def prefix(self, part: str) -> str | None:
        """Return what the names of a component's tensors begin with; `None` if the file lacks it."""
        return self.layout.prefix(self.shapes, part)


def open_single_file(path: Path, options: ModelOptions, configs: Path | None = None) -> SingleFile:
    """Read the header of a checkpoint.

    Raises:
        ModelError: the file is invalid, of another family, quantised in an unknown way, or lacks a component.
    """
    if gguf.is_gguf(path):
        shapes, metadata = gguf.read_shapes(path), {}
        _require_network(path, shapes)
    else:
        header = read_header(path, error=ModelError)
        shapes, metadata = {name: entry.shape for name, entry in header.tensors.items()}, dict(header.metadata)
        check_scaled(path, header.tensors, metadata)
    refuse_packed(path, shapes)
    layout = detect_layout(path, shapes, options)
    return SingleFile(path, shapes, metadata, layout, configs or layout.configs)


def _require_network(path: Path, shapes: Shapes) -> None:
    """Raise `ModelError` unless a GGUF file holds a network of a known family; most hold language models."""
    if all(layout.prefix(shapes, layout.family.network.name) is None for layout in LAYOUTS):
        raise ModelError(
            f"{str(path)!r} is a GGUF file, not a safetensors file with a model, and holds no network that is known",
            hint="give a Stable Diffusion or FLUX.1 network, or get the model as .safetensors",
        )


def load_single_file(
    path: Path, dtype: torch.dtype, options: ModelOptions | None = None, configs: Path | None = None
) -> Checkpoint:
    """Load all components of a checkpoint, but those that the options take from elsewhere.

    Args:
        path: a safetensors or GGUF file with the original tensor names.
        dtype: precision of the weights; what is quantised computes in it.
        options: what is stated about the model.
        configs: folder with the settings of the networks, in diffusers layout; `None` for the released models'.

    Raises:
        ModelError: the file is invalid, of another family or lacks a component, or there is no tokenizer.
    """
    options = options or ModelOptions()
    file = open_single_file(path, options, configs)
    stated = _stated_prediction(path, file.shapes, file.metadata)
    family = file.layout.family
    texts = [text for _, text in family.text_models if not options.replaces(text.name) and file.prefix(text.name)]
    tokenizers = {
        tokenizer.name: _load_tokenizer(file, tokenizer, text)
        for tokenizer, text in family.text_models
        if text in texts
    }
    networks = {family.network.name: _load_network(file, dtype)}
    if not options.replaces("vae"):
        networks["vae"] = _load_component(file, "vae", "AutoencoderKL", dtype)
    networks |= {text.name: _load_text_model(file, text, dtype) for text in texts}
    scheduler = read_json(file.configs / "scheduler" / "scheduler_config.json", "scheduler")
    measured = {} if stated or options.prediction else _measured_prediction(networks[family.network.name], file.layout)
    prediction = stated or measured
    if file.layout is SD2_LAYOUT and (options.prediction or prediction.get("prediction_type")) == "epsilon":
        # the 2.x models that predict noise were trained at the resolution of 1.x
        networks["unet"].register_to_config(sample_size=facts.SD1.native_cells)
    return Checkpoint(
        family=family,
        networks=networks,
        tokenizers=tokenizers,
        scheduler_config=scheduler | prediction,
        index={},
        configs=file.configs,
        notes=tuple(_notes(file, options, measured)),
    )


def _notes(file: SingleFile, options: ModelOptions, measured: Mapping[str, Any]) -> list[str]:
    """Return what was assumed about a file, one line each."""
    notes = []
    if measured:
        found = str(measured["prediction_type"]).removesuffix("_prediction")
        notes.append(f"{file.path.name} does not state what it predicts; on noise it was found to predict {found}")
    if file.layout is SD3_LAYOUT and not options.text_encoders and file.prefix("text_encoder_3") is None:
        notes.append(f"{file.path.name} has no T5; zeros take the place of its features, as in training")
    if any(name.startswith(_AVERAGED) for name in file.shapes):
        notes.append(f"{file.path.name} also has weights averaged in training (EMA); its other weights are used")
    if "ztsnr" in file.shapes and "v_pred" not in file.shapes:
        notes.append(f"{file.path.name} is marked as ztsnr without v_pred; the mark is left out, as in ComfyUI")
    return notes


def _stated_prediction(path: Path, names: Collection[str], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the scheduler settings that the file states, by tensors that are mere marks, in its metadata or beside it.

    Raises:
        ModelError: it states a prediction type that is not known.
    """
    if "v_pred" in names:
        return {"prediction_type": "v_prediction", "rescale_betas_zero_snr": "ztsnr" in names}
    in_header = next(filter(None, (metadata.get(key, "").strip() for key in _PREDICTION_KEYS)), "")
    stated = in_header or _yaml_prediction(path)
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


def _load_tokenizer(file: SingleFile, tokenizer: ComponentSpec, text: ComponentSpec) -> Any:
    """Load a tokenizer from a folder beside the checkpoint, else from the hub or its cache.

    CLIP's tokenizers differ in what they pad with alone, so that one folder serves all of a model.
    """
    is_clip = tokenizer.kind == "CLIPTokenizer"
    beside = file.path.parent / ("tokenizer" if is_clip else tokenizer.name)
    try:
        folder = beside if beside.is_dir() else download_tokenizer(_CLIP if is_clip else _T5)
        loaded = load_tokenizer(folder, tokenizer.kind)
    except ModelError as reason:
        if beside.is_dir():
            raise
        whose, files = ("CLIP", "vocab.json and merges.txt") if is_clip else ("T5", "tokenizer.json")
        raise ModelError(
            f"{str(file.path)!r} needs {whose}'s tokenizer, which a single file does not hold: {reason}",
            hint=f"without network, put its {files} (of {_CLIP if is_clip else _T5}) into the folder {str(beside)!r}",
        ) from reason
    if text.name in file.layout.zero_padded:
        loaded.pad_token = _OPENCLIP_PAD_TOKEN
    return loaded


def _load_network(file: SingleFile, dtype: torch.dtype) -> Any:
    """Load the denoising network, with the settings that the file's tensors show."""
    spec, prefix = file.layout.family.network, file.prefix(file.layout.family.network.name) or ""
    own = {name.removeprefix(prefix): shape for name, shape in file.shapes.items() if name.startswith(prefix)}
    with translate_errors(file.path, spec.name):
        shown = transformer_settings(file.layout, own)
    settings = read_json(file.configs / spec.name / "config.json", spec.name) | shown
    with TemporaryDirectory() as folder:
        configs = Path(folder)
        (configs / spec.name).mkdir()
        (configs / spec.name / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        return _load_component(file, spec.name, spec.kind, dtype, configs)


def _load_component(file: SingleFile, name: str, kind: str, dtype: torch.dtype, configs: Path | None = None) -> Any:
    """Load a network of diffusers through its own conversion of the original tensor names."""
    more: dict[str, Any] = gguf.quantiser(dtype) if file.is_gguf else {}
    with silence_libraries(), translate_errors(file.path, name):
        model = network_class(kind).from_single_file(
            _source_of(file, name, dtype),
            config=str(configs or file.configs),
            subfolder=name,
            torch_dtype=dtype,
            local_files_only=True,
            **more,
        )
    require_complete(file.path, name, {"missing_keys": _missing_weights(model)})
    return model


def _source_of(file: SingleFile, name: str, dtype: torch.dtype) -> Any:
    """Return what diffusers loads a component from: the file, or tensors that it would not find, or have to scale."""
    prefix = NETWORK if name == "unet" and file.prefix(name) == "" else ""
    if file.is_gguf:
        return {f"{prefix}{key}": tensor for key, tensor in gguf.read_tensors(file.path).items()}
    if prefix or is_scaled(file.shapes):
        own = file.prefix(name) or ""
        return {f"{prefix}{own}{key}": tensor for key, tensor in read_weights(file.path, own, dtype).items()}
    return str(file.path)


def _missing_weights(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that were not in the file: they are still on the meta device."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _load_text_model(file: SingleFile, spec: ComponentSpec, dtype: torch.dtype) -> Any:
    with silence_libraries(), translate_errors(file.path, spec.name):
        kind = network_class(spec.kind)
        config = kind.config_class.from_pretrained(file.configs / spec.name)
        weights = read_weights(file.path, file.prefix(spec.name) or "", dtype)
        if file.layout.is_openclip(spec.name):
            weights = convert_openclip(weights, config.num_hidden_layers)
        if file.layout is SD3_LAYOUT and spec.name == "text_encoder":
            weights["text_projection.weight"] = torch.eye(config.hidden_size)  # its pooled vector is not projected
        model, info = kind.from_pretrained(
            None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
        )
    require_complete(file.path, spec.name, info)
    return model
