"""Denoising networks of real sizes with random weights: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import stylescore
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families import flux, sd, sd3, sdxl
from stylescore.diffusion.families.base import Call
from stylescore.diffusion.predictions import Prediction, RectifiedFlow, VariancePreserving
from stylescore.method.schedule import NoiseSchedule

CONFIGS = Path(stylescore.__file__).parent / "diffusion" / "checkpoints"
MINI = Path(stylescore.__file__).parent / "catalog" / "bundled" / "mini"
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family at one size.

    Attributes:
        make: makes the network, float32 on the CPU.
        call: how it is called.
        prediction: how it is asked and what it predicts.
        channels: of a latent.
        scale: pixels per latent cell.
        tokens: of a prompt, and their width.
        pooled: width of the pooled features, 0 for none.
    """

    make: Callable[[], Any]
    call: Call
    prediction: Callable[[NoiseSchedule], Prediction]
    channels: int = 4
    scale: int = 8
    tokens: tuple[int, int] = (77, 768)
    pooled: int = 0

    def words(self, count: int, device: torch.device, seed: int) -> Conditioning:
        """Return random features of so many prompts."""
        rng = torch.Generator().manual_seed(seed)
        tokens = torch.randn(count, *self.tokens, generator=rng).to(device)
        return Conditioning(tokens, torch.randn(count, self.pooled, generator=rng).to(device) if self.pooled else None)


def unet(folder: Path) -> Callable[[], Any]:
    """Return what makes a U-Net from a folder's settings."""

    def make() -> Any:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel.from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))

    return make


def stable_diffusion_3() -> Any:
    """Return a transformer of the size of Stable Diffusion 3 medium."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        num_attention_heads=24,
        caption_projection_dim=1536,
        pos_embed_max_size=192,
    )


def flux_dev() -> Any:
    """Return a transformer of the size of FLUX.1-dev, in bfloat16: in float32 it takes 48 GB."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return in_bfloat16(lambda: FluxTransformer2DModel(guidance_embeds=True))


def in_bfloat16(make: Callable[[], Any]) -> Any:
    """Return what `make` makes where bfloat16 is the usual precision."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return make()
    finally:
        torch.set_default_dtype(usual)


KINDS: dict[str, Kind] = {
    "mini": Kind(
        make=unet(MINI / "unet"),
        call=sd.call,
        prediction=lambda schedule: VariancePreserving(schedule, "sample"),
        channels=32,
        tokens=(77, 96),
    ),
    "sd1": Kind(make=unet(CONFIGS / "sd1" / "unet"), call=sd.call, prediction=VariancePreserving),
    "sd2": Kind(
        make=unet(CONFIGS / "sd2" / "unet"),
        call=sd.call,
        prediction=lambda schedule: VariancePreserving(schedule, "v_prediction"),
        tokens=(77, 1024),
    ),
    "sdxl": Kind(
        make=unet(CONFIGS / "sdxl" / "unet"),
        call=sdxl.Calling(8),
        prediction=VariancePreserving,
        tokens=(77, 2048),
        pooled=1280,
    ),
    "sd3": Kind(
        make=stable_diffusion_3,
        call=sd3.call,
        prediction=RectifiedFlow,
        channels=16,
        tokens=(154, 4096),
        pooled=2048,
    ),
    "flux": Kind(
        make=flux_dev,
        call=flux.Calling(True),
        prediction=RectifiedFlow,
        channels=16,
        tokens=(512, 4096),
        pooled=768,
    ),
}
