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
from stylescore.diffusion.checkpoints.folders import SUPPORTED, load_folder
from stylescore.diffusion.checkpoints.single_file import load_single_file
from stylescore.diffusion.execution.devices import DevicePlacement, set_memory_format
from stylescore.diffusion.families import Family, Parts
from stylescore.diffusion.families.base import Call
from stylescore.diffusion.predictions import Prediction, RectifiedFlow, VariancePreserving
from stylescore.diffusion.text import Reader, TextEncoder
from stylescore.errors import ModelError
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import PredictionType

FLOW_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}
"""What t means for a model that has no schedule of its own: Stable Diffusion's."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """A model's parts, frozen and ready on their device.

    Attributes:
        family: what kind of model it is.
        network: the diffusers U-Net or transformer that denoises.
        call: how it is called.
        vae: diffusers `AutoencoderKL`.
        text: its text models with their tokenizers.
        scheduler_config: the scheduler's settings as stored.
        prediction_type: what the network predicts; `None` for the velocity of a flow.
        betas: noise added at each step, [T], float32 on the CPU; for a flow, Stable Diffusion's.
        alphas_cumprod: cumulative product of 1 - beta, [T], float32 on the CPU.
        native_size: side in pixels of the pictures the model was trained on.
        vae_scale: pixels per latent cell.
        name: what to call the model.
    """

    family: Family
    network: Any
    call: Call
    vae: Any
    text: TextEncoder
    scheduler_config: Mapping[str, Any]
    prediction_type: PredictionType | None
    betas: Tensor
    alphas_cumprod: Tensor
    native_size: int
    vae_scale: int
    name: str

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a picture must be multiples of."""
        return self.vae_scale * self.family.patch

    @property
    def text_width(self) -> int:
        """Width of the text features the network's attention reads."""
        return self.family.text_width(self.network)

    def prediction(self, schedule: NoiseSchedule) -> Prediction:
        """Return how the network is asked on a schedule."""
        if self.prediction_type is None:
            return RectifiedFlow(schedule)
        return VariancePreserving(schedule, self.prediction_type)


def load_components(source: Path | str, *, dtype: torch.dtype, places: DevicePlacement) -> Components:
    """Load a model.

    Args:
        source: a folder in diffusers layout, a `.safetensors` checkpoint, or a hub id `owner/name`.
        dtype: precision of the weights; an autoencoder that overflows in float16 gets float32, and so do text models
            that would have to work in float16 on a CPU.
        places: where to put them.

    Raises:
        ModelError: when it is missing, of an unknown family, lacks a part, or a part is unsound.
    """
    name, parts = _load(source, dtype)
    family = parts.family
    family.require_fit(name, parts)
    scheduler = _schedule_of(name, parts)
    _freeze(parts.network, places.weights)
    set_memory_format(parts.network, places.network)
    _freeze(parts.vae, places.codec)
    for _, model in parts.texts.values():
        _freeze(model, places.texts)
    if dtype == torch.float16:
        _widen(parts, places)
    return Components(
        family=family,
        network=parts.network,
        call=family.make_call(parts),
        vae=parts.vae,
        text=text_encoder(parts, places),
        scheduler_config=parts.scheduler_config,
        prediction_type=None if family.flow else _prediction_type(name, parts.scheduler_config),
        betas=scheduler.betas,
        alphas_cumprod=scheduler.alphas_cumprod,
        native_size=_native_side(parts),
        vae_scale=parts.vae_scale,
        name=name,
    )


def text_encoder(parts: Parts, places: DevicePlacement) -> TextEncoder:
    """Return a model's text models as one."""
    lengths = parts.family.lengths(parts)
    readers = tuple(
        Reader(name, tokenizer, model, lengths.get(name, tokenizer.model_max_length))
        for name, (tokenizer, model) in parts.texts.items()
    )
    visits = places.encoding if places.encoding != places.texts else None
    return TextEncoder(readers, parts.family.make_encode(parts), device=places.network, visits=visits)


def _load(source: Path | str, dtype: torch.dtype) -> tuple[str, Parts]:
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name, load_folder(path, dtype)
    if path.is_file():
        return path.stem, load_single_file(path, dtype)
    if isinstance(source, Path) or source.count("/") != 1:
        raise ModelError(f"there is no model {str(source)!r}", hint="give a folder, a .safetensors file or a hub id")
    return source, load_folder(download_model(source), dtype)


def _schedule_of(name: str, parts: Parts) -> Any:
    """Return the schedule that says what t means; a flow's own scheduler only says where samplers go."""
    flow = "Flow" in str(parts.scheduler_config.get("_class_name"))
    if flow != parts.family.flow:
        raise ModelError(
            f"the scheduler of {name!r} is a {parts.scheduler_config.get('_class_name')!r}, which is "
            f"{'' if flow else 'not '}for flow models, but {parts.family.label} is {'' if not flow else 'not '}one",
            hint=SUPPORTED,
        )
    return _scheduler(name, FLOW_SCHEDULE if flow else parts.scheduler_config)


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Return diffusers' own noise schedule for these settings."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if "EDM" in str(config.get("_class_name")):
        raise ModelError(
            f"the scheduler of {name!r} is a {config['_class_name']!r}, whose noise cannot be used",
            hint="choose a model that was trained on Stable Diffusion's noise schedule",
        )
    schedule = ("num_train_timesteps", "trained_betas", "rescale_betas_zero_snr")
    known = [key for key in inspect.signature(DDPMScheduler).parameters if key.startswith("beta_") or key in schedule]
    try:
        return DDPMScheduler(**{key: config[key] for key in known if key in config})
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as reason:
        raise ModelError(f"the scheduler of {name!r} cannot be used: {reason}") from reason


def _prediction_type(name: str, config: Mapping[str, Any]) -> PredictionType:
    stated = config.get("prediction_type", "epsilon")
    known: tuple[PredictionType, ...] = get_args(PredictionType)
    for kind in known:
        if kind == stated:
            return kind
    raise ModelError(f"the scheduler of {name!r} has prediction_type {stated!r}, not one of {', '.join(known)}")


def _native_side(parts: Parts) -> int:
    """Return the side in pixels that the model was trained at, the smaller one when two are stated."""
    match getattr(parts.network.config, "sample_size", None):
        case int(side):
            cells = side
        case [int(height), int(width)]:
            cells = min(height, width)
        case _:
            cells = parts.family.usual_grid
    return cells * parts.vae_scale


def _widen(parts: Parts, places: DevicePlacement) -> None:
    """Give the parts float32 that would overflow in float16, or work slowly in it."""
    if parts.vae.config.force_upcast:
        parts.vae.float()
    if places.encoding.type == "cpu":
        for _, model in parts.texts.values():
            model.float()


def _freeze(model: nn.Module, device: torch.device) -> None:
    model.to(device).eval().requires_grad_(False)
