"""Loads a diffusion model of any family from a folder, a single file or the hub."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stylescore.catalog.hub import download_model
from stylescore.config.run import PredictionName
from stylescore.diffusion.checkpoints.folders import SUPPORTED, load_folder
from stylescore.diffusion.checkpoints.limits import DOWNLOAD_AGAIN, check_sample_size, check_schedule
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.checkpoints.parts import add_parts
from stylescore.diffusion.checkpoints.single_file import load_single_file
from stylescore.diffusion.execution.devices import DevicePlacement, avoid_cudnn_attention, set_memory_format
from stylescore.diffusion.families import Checkpoint, Family
from stylescore.diffusion.families.base import Call
from stylescore.diffusion.predictions import Prediction, RectifiedFlow, VariancePreserving
from stylescore.diffusion.quantisation import has_quantised
from stylescore.diffusion.text import TextEncoder, TextModel
from stylescore.errors import ModelError
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import PredictionType
from stylescore.storage.texts import is_file, is_folder, user_path

_FLOW_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""Defines what t means for a flow model, which has no schedule of its own: Stable Diffusion's."""
_NAMES: Mapping[PredictionType | None, PredictionName] = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    None: "flow",
}
"""What users call a prediction type."""
_TYPES: Mapping[PredictionName, PredictionType | None] = {name: kind for kind, name in _NAMES.items()}
_UNET_TIME = 1000.0
"""What U-Nets that were trained as a flow call the time of pure noise: they had a thousand timesteps before."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The components of a loaded model, frozen and on their device.

    Attributes:
        family: the family it belongs to.
        network: the diffusers U-Net or transformer that denoises.
        call: how the network is called.
        vae: diffusers `AutoencoderKL`.
        text: its text models with their tokenizers.
        scheduler_config: the scheduler's settings, as stored.
        prediction_type: what the network predicts; `None` for the velocity of a flow.
        betas: noise added at each step, [T], float32 on the CPU; for a flow, Stable Diffusion's.
        native_size: side in pixels of the pictures that the model was trained on.
        vae_scale: pixels per latent cell.
        name: the model's name in messages.
        notes: what was assumed about it, one line each.
    """

    family: Family
    network: Any
    call: Call
    vae: Any
    text: TextEncoder
    scheduler_config: Mapping[str, Any]
    prediction_type: PredictionType | None
    betas: Tensor
    native_size: int
    vae_scale: int
    name: str
    notes: tuple[str, ...] = ()

    @property
    def predicts(self) -> PredictionName:
        """What the network predicts, as users call it."""
        return _NAMES[self.prediction_type]

    @property
    def multiple(self) -> int:
        """Both sides of a picture must be multiples of this many pixels."""
        return self.vae_scale * self.family.patch

    @property
    def text_width(self) -> int:
        """Width of the text features that the network's attention reads."""
        return self.family.text_width(self.network)

    def prediction(self, schedule: NoiseSchedule) -> Prediction:
        """Return how (z_t, t) on this schedule becomes the network's inputs, and its output becomes noise."""
        if self.prediction_type is None:
            return RectifiedFlow(schedule, 1.0 if self.family.is_flow else _UNET_TIME)
        return VariancePreserving(schedule, self.prediction_type)


def load_components(
    source: Path | str, *, dtype: torch.dtype, places: DevicePlacement, options: ModelOptions | None = None
) -> Components:
    """Load a model.

    Args:
        source: a folder in diffusers layout, a `.safetensors` or `.gguf` checkpoint, or a hub id `owner/name`.
        dtype: precision of the weights; an autoencoder that overflows in float16 gets float32, and so do text models
            that would run in float16 on a CPU.
        places: where to put the components.
        options: what is stated about the model, and which of its components come from elsewhere.

    Raises:
        ModelError: the model is missing, of an unsupported family, lacks a component, or a component is invalid.
    """
    options = options or ModelOptions()
    name, checkpoint = _load_checkpoint(source, dtype, options)
    checkpoint = add_parts(checkpoint, dtype, options)
    family = checkpoint.family
    family.require_fit(name, checkpoint)
    stated = _stated_prediction(name, checkpoint)
    prediction, notes = _resolve_prediction(name, stated, options.prediction)
    kind = _TYPES[prediction]
    betas, native_size = _load_betas(name, checkpoint, prediction == "flow"), _native_size(name, checkpoint)
    avoid_cudnn_attention(places.network)
    _freeze(checkpoint.network, places.weights)
    if not has_quantised(checkpoint.network):
        set_memory_format(checkpoint.network, places.network)
    _freeze(checkpoint.vae, places.codec)
    for _, model in checkpoint.text_models.values():
        _freeze(model, places.texts)
    if dtype == torch.float16:
        _widen(checkpoint, places)
    return Components(
        family=family,
        network=checkpoint.network,
        call=family.make_call(checkpoint),
        vae=checkpoint.vae,
        text=_make_text_encoder(checkpoint, places),
        scheduler_config={**checkpoint.scheduler_config, **({} if kind is None else {"prediction_type": kind})},
        prediction_type=kind,
        betas=betas,
        native_size=native_size,
        vae_scale=checkpoint.vae_scale,
        name=name,
        notes=(*checkpoint.notes, *notes),
    )


def _make_text_encoder(checkpoint: Checkpoint, places: DevicePlacement) -> TextEncoder:
    """Return a model's text models as one encoder."""
    lengths = checkpoint.family.max_lengths(checkpoint)
    models = tuple(
        TextModel(name, tokenizer, model, lengths.get(name, tokenizer.model_max_length))
        for name, (tokenizer, model) in checkpoint.text_models.items()
    )
    names = {model.name for model in models}
    execution_device = places.encoding if places.encoding != places.texts else None
    encode = checkpoint.family.make_encode(checkpoint)
    splits = all(text.kind.startswith("CLIP") for _, text in checkpoint.family.text_models if text.name in names)
    return TextEncoder(models, encode, device=places.network, execution_device=execution_device, splits=splits)


def _load_checkpoint(source: Path | str, dtype: torch.dtype, options: ModelOptions) -> tuple[str, Checkpoint]:
    path = user_path(str(source))
    if is_folder(path):
        return path.resolve().name, load_folder(path, dtype, options)
    if is_file(path):
        return path.stem, load_single_file(path, dtype, options)
    if isinstance(source, Path) or source.count("/") != 1:
        raise ModelError(f"there is no model {str(source)!r}", hint="give a folder, a .safetensors file or a hub id")
    return source, load_folder(download_model(source), dtype, options)


def _load_betas(name: str, checkpoint: Checkpoint, is_flow: bool) -> Tensor:
    """Return the betas that define what t means; a flow's own scheduler only defines how samplers step."""
    config = _FLOW_SCHEDULE if is_flow else checkpoint.scheduler_config
    betas: Tensor = _make_scheduler(name, config).betas
    if not bool(((betas > 0) & (betas <= 1)).all()):
        raise ModelError(
            f"the scheduler of {name!r} adds noise of a variance that is not between 0 and 1", hint=DOWNLOAD_AGAIN
        )
    return betas


def import_models() -> None:
    """Import the classes of the bundled model, which takes seconds that else its first loading takes."""
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401


def _make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Return diffusers' DDPM scheduler with these settings, for its betas."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if "EDM" in str(config.get("_class_name")):
        raise ModelError(
            f"the scheduler of {name!r} is a {config['_class_name']!r}, whose noise schedule is not supported",
            hint="choose a model that was trained on Stable Diffusion's noise schedule",
        )
    check_schedule(name, config)
    others = ("num_train_timesteps", "trained_betas", "rescale_betas_zero_snr")
    known = [key for key in inspect.signature(DDPMScheduler).parameters if key.startswith("beta_") or key in others]
    try:
        return DDPMScheduler(**{key: config[key] for key in known if key in config})
    except Exception as reason:  # the library checks little: a wrong type may raise anything
        raise ModelError(f"the scheduler of {name!r} cannot be used: {reason}", hint=DOWNLOAD_AGAIN) from reason


def _stated_prediction(name: str, checkpoint: Checkpoint) -> PredictionName | None:
    """Return what a model's family and scheduler say that its network predicts; `None` if they do not.

    Raises:
        ModelError: they contradict each other, or the scheduler states an unknown type.
    """
    family, config = checkpoint.family, checkpoint.scheduler_config
    kind, stated = config.get("_class_name"), config.get("prediction_type")
    is_flow = "Flow" in str(kind)
    if family.is_flow and not is_flow:
        raise ModelError(
            f"the scheduler of {name!r} is a {kind!r}, which is not for flow models, but {family.label} is one",
            hint=SUPPORTED,
        )
    if is_flow or stated is None:
        return "flow" if is_flow else None
    known: tuple[PredictionType, ...] = get_args(PredictionType)
    if stated not in known:
        raise ModelError(f"the scheduler of {name!r} has prediction_type {stated!r}, not one of {', '.join(known)}")
    return _NAMES[stated]


def _resolve_prediction(
    name: str, stated: PredictionName | None, given: PredictionName | None
) -> tuple[PredictionName, list[str]]:
    """Return what a network predicts, and what was assumed.

    Raises:
        ModelError: the files state something else than the user.
    """
    if given is not None and stated not in (given, None):
        raise ModelError(
            f"the files of {name!r} state that it predicts {stated}, not {given}",
            hint=f"leave out --prediction {given}; if the files are wrong, correct what they state",
        )
    if stated is None and given is None:
        return "epsilon", [f"{name} does not state what it predicts: epsilon is assumed, else give --prediction v"]
    return stated or given or "epsilon", []


def _native_size(name: str, checkpoint: Checkpoint) -> int:
    """Return the side in pixels of the training pictures, the smaller one if two are stated."""
    cells = getattr(checkpoint.network.config, "sample_size", None) or checkpoint.family.facts.native_cells
    return check_sample_size(name, checkpoint.family.network.name, cells, checkpoint.vae_scale)


def _widen(checkpoint: Checkpoint, places: DevicePlacement) -> None:
    """Convert the components to float32 that would overflow in float16, or be slow in it."""
    if checkpoint.vae.config.force_upcast:
        checkpoint.vae.float()
    if places.encoding.type == "cpu":
        for _, model in checkpoint.text_models.values():
            if not has_quantised(model):
                model.float()


def _freeze(model: nn.Module, device: torch.device) -> None:
    model.to(device).eval().requires_grad_(False)
