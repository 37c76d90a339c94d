"""Stable Diffusion 1.x and 2.x: one CLIP text model, a U-Net with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stylescore.catalog.families import SD1
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families.base import (
    Checkpoint,
    ComponentSpec,
    Family,
    always,
    require_latents,
    require_width,
    tokenizer_lengths,
)
from stylescore.diffusion.text import TextModel


def encode(models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
    """Return the last hidden states, final layer norm included."""
    return Conditioning(models["text_encoder"](prompts).last_hidden_state)


def call(unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call a diffusers `UNet2DConditionModel`."""
    output: Tensor = unet(latents, time, encoder_hidden_states=conditioning.tokens).sample
    return output


def _require_fit(name: str, checkpoint: Checkpoint) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the U-Net expects."""
    require_latents(name, checkpoint)
    found = checkpoint.networks["text_encoder"].config.hidden_size
    require_width(name, checkpoint, "text features", text_width(checkpoint.network), found)


def text_width(unet: Any) -> int:
    """Return the width of the text features that a U-Net's cross-attention reads."""
    return int(unet.config.cross_attention_dim)


SD = Family(
    facts=SD1,
    label="Stable Diffusion 1.x and 2.x",
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    network=ComponentSpec("unet", "UNet2DConditionModel"),
    text_models=((ComponentSpec("tokenizer", "CLIPTokenizer"), ComponentSpec("text_encoder", "CLIPTextModel")),),
    max_lengths=tokenizer_lengths,
    require_fit=_require_fit,
    make_encode=always(encode),
    make_call=always(call),
    text_width=text_width,
)
