"""Denoising networks of real sizes with random weights: nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import stylescore
from stylescore.catalog import families as facts
from stylescore.catalog.families import FamilyFacts
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
        facts: widths and sizes of the family.
        make: makes the network in float32, on torch's default device.
        call: how it is called.
        prediction: how its inputs and its output are converted.
        tokens: of a prompt.
    """

    facts: FamilyFacts
    make: Callable[[], Any]
    call: Call
    prediction: Callable[[NoiseSchedule], Prediction]
    tokens: int = 77

    def words(self, count: int, device: torch.device, seed: int) -> Conditioning:
        """Return random features of so many prompts."""
        rng = torch.Generator().manual_seed(seed)
        tokens = torch.randn(count, self.tokens, self.facts.text_width, generator=rng).to(device)
        width = self.facts.pooled_width
        return Conditioning(tokens, torch.randn(count, width, generator=rng).to(device) if width else None)


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
    kind.facts.key: kind
    for kind in (
        Kind(
            facts=facts.MINI,
            make=unet(MINI / "unet"),
            call=sd.call,
            prediction=lambda schedule: VariancePreserving(schedule, "sample"),
        ),
        Kind(facts=facts.SD1, make=unet(CONFIGS / "sd1" / "unet"), call=sd.call, prediction=VariancePreserving),
        Kind(
            facts=facts.SD2,
            make=unet(CONFIGS / "sd2" / "unet"),
            call=sd.call,
            prediction=lambda schedule: VariancePreserving(schedule, "v_prediction"),
        ),
        Kind(
            facts=facts.SDXL,
            make=unet(CONFIGS / "sdxl" / "unet"),
            call=sdxl.SdxlCall(facts.SDXL.pixels_per_cell),
            prediction=VariancePreserving,
        ),
        Kind(facts=facts.SD3, make=stable_diffusion_3, call=sd3.call, prediction=RectifiedFlow, tokens=154),
        Kind(
            facts=facts.FLUX,
            make=flux_dev,
            call=flux.FluxCall(has_guidance_input=True),
            prediction=RectifiedFlow,
            tokens=flux.DEV_TOKENS,
        ),
    )
}
"""Those of SD3 have 154 tokens: its CLIPs' and as many of its T5's."""
