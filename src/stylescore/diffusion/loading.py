"""Loads the parts of a Stable Diffusion model from a folder, a single file or the hub."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from stylescore.config import PredictionType
from stylescore.diffusion.folders import Parts, load_folder
from stylescore.diffusion.single_file import load_single_file
from stylescore.errors import ModelError
from stylescore.models.hub import download_model

USUAL_GRID = 64


@dataclass(frozen=True, kw_only=True)
class Components:
    """A model's parts, frozen and ready on their device.

    Attributes:
        unet: diffusers `UNet2DConditionModel`.
        vae: diffusers `AutoencoderKL`.
        text_encoder: transformers `CLIPTextModel`.
        tokenizer: transformers `CLIPTokenizer`.
        scheduler_config: the scheduler's settings as stored.
        prediction_type: what the U-Net predicts.
        betas: noise added at each step, [T], float32 on the CPU.
        alphas_cumprod: cumulative product of 1 - beta, [T], float32 on the CPU.
        native_size: side in pixels of the pictures the model was trained on.
        vae_scale: pixels per latent cell.
        name: what to call the model.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    prediction_type: PredictionType
    betas: Tensor
    alphas_cumprod: Tensor
    native_size: int
    vae_scale: int
    name: str


def load_components(source: Path | str, *, dtype: torch.dtype, device: torch.device) -> Components:
    """Load a model of the Stable Diffusion 1.x or 2.x kind.

    Args:
        source: a folder in diffusers layout, a `.safetensors` checkpoint, or a hub id `owner/name`.
        dtype: precision of the weights.
        device: where to put them.

    Raises:
        ModelError: when it is missing, of another family, lacks a part, or a part is unsound.
    """
    name, parts = _load(source, dtype)
    _require_fit(name, parts)
    scheduler = _scheduler(name, parts.scheduler_config)
    vae_scale = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    return Components(
        unet=_frozen(parts.unet, device),
        vae=_frozen(parts.vae, device),
        text_encoder=_frozen(parts.text_encoder, device),
        tokenizer=parts.tokenizer,
        scheduler_config=parts.scheduler_config,
        prediction_type=_prediction_type(name, parts.scheduler_config),
        betas=scheduler.betas,
        alphas_cumprod=scheduler.alphas_cumprod,
        native_size=_grid_side(parts.unet.config.sample_size) * vae_scale,
        vae_scale=vae_scale,
        name=name,
    )


def _load(source: Path | str, dtype: torch.dtype) -> tuple[str, Parts]:
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve().name, load_folder(path, dtype)
    if path.is_file():
        return path.stem, load_single_file(path, dtype)
    if isinstance(source, Path) or source.count("/") != 1:
        raise ModelError(f"there is no model {str(source)!r}", hint="give a folder, a .safetensors file or a hub id")
    return source, load_folder(download_model(source), dtype)


def _require_fit(name: str, parts: Parts) -> None:
    """Raise unless the U-Net works on latents of this autoencoder and reads this text encoder."""
    unet, latent = parts.unet.config, parts.vae.config.latent_channels
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise ModelError(
            f"the model {name!r} is not a plain text-to-image model: its latents have {latent} channels, "
            f"its unet takes {unet.in_channels} and gives {unet.out_channels}",
            hint="inpainting, depth and editing models cannot be used: choose their base model",
        )
    width = parts.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise ModelError(
            f"the model {name!r} has a unet for text features of width {unet.cross_attention_dim}, "
            f"but a text_encoder of width {width}"
        )


def _scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """Return diffusers' own noise schedule for these settings."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    if "Flow" in str(config.get("_class_name")):
        raise ModelError(f"the model {name!r} is a flow model, only Stable Diffusion 1.x and 2.x can be used")
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


def _grid_side(sample_size: object) -> int:
    """Return the side of the latent grid; the smaller one when two are given."""
    match sample_size:
        case int(side):
            return side
        case [int(height), int(width)]:
            return min(height, width)
        case _:
            return USUAL_GRID


def _frozen(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device).eval().requires_grad_(False)
