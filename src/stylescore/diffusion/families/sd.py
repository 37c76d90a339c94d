"""Stable Diffusion 1.x and 2.x: one CLIP text model, a U-Net with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families.base import (
    Family,
    Part,
    Parts,
    always,
    as_tokenizers_say,
    require_latents,
    require_width,
)
from stylescore.diffusion.text import Reader


def encode(readers: Mapping[str, Reader], prompts: Sequence[str]) -> Conditioning:
    """Return the last hidden states, final layer norm included."""
    return Conditioning(readers["text_encoder"](prompts).last_hidden_state)


def call(unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Ask a diffusers `UNet2DConditionModel`."""
    output: Tensor = unet(latents, time, encoder_hidden_states=conditioning.tokens).sample
    return output


def require_fit(name: str, parts: Parts) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the U-Net expects."""
    require_latents(name, parts)
    found = parts.networks["text_encoder"].config.hidden_size
    require_width(name, parts, "text features", text_width(parts.network), found)


def text_width(unet: Any) -> int:
    """Return the width of the text features a U-Net reads."""
    return int(unet.config.cross_attention_dim)


SD = Family(
    key="sd",
    label="Stable Diffusion 1.x and 2.x",
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    network=Part("unet", "UNet2DConditionModel"),
    texts=((Part("tokenizer", "CLIPTokenizer"), Part("text_encoder", "CLIPTextModel")),),
    usual_grid=64,
    tiny="madebyollin/taesd",
    lengths=as_tokenizers_say,
    require_fit=require_fit,
    make_encode=always(encode),
    make_call=always(call),
    text_width=text_width,
)
