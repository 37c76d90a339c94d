"""SDXL: two CLIP text models side by side, the second one's pooled vector, and the picture's size as conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families.base import (
    Call,
    Family,
    Part,
    Parts,
    as_tokenizers_say,
    require_latents,
    require_width,
)
from stylescore.diffusion.families.sd import text_width
from stylescore.diffusion.text import Encode, Reader

SIZES = 6
"""Height, width; top and left edge of the crop; height and width once more."""


@dataclass(frozen=True)
class Encoding:
    """How prompts are encoded.

    Attributes:
        empty_is_zero: whether the empty prompt is zeros, as the model learned it, instead of what CLIP makes of it.
    """

    empty_is_zero: bool = True

    def __call__(self, readers: Mapping[str, Reader], prompts: Sequence[str]) -> Conditioning:
        """Return both models' last hidden states but one, without layer norm, and the second's pooled vector."""
        first = readers["text_encoder"](prompts, output_hidden_states=True)
        second = readers["text_encoder_2"](prompts, output_hidden_states=True)
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        features = Conditioning(tokens, second.text_embeds)
        return features.where([prompt != "" for prompt in prompts]) if self.empty_is_zero else features


@dataclass(frozen=True)
class Calling:
    """How the U-Net is called.

    Attributes:
        pixels: per latent cell on each axis.
    """

    pixels: int

    def __call__(self, unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask a diffusers `UNet2DConditionModel`, telling that the picture was never scaled nor cropped."""
        added = {"text_embeds": conditioning.pooled, "time_ids": self.sizes(latents)}
        output: Tensor = unet(latents, time, encoder_hidden_states=conditioning.tokens, added_cond_kwargs=added).sample
        return output

    def sizes(self, latents: Tensor) -> Tensor:
        """Return original size, crop and target size in pixels, [batch, 6] (SDXL report, section 2.2)."""
        height, width = (self.pixels * cells for cells in latents.shape[-2:])
        row = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=torch.float32)
        return row.expand(len(latents), SIZES)


def require_fit(name: str, parts: Parts) -> None:
    """Raise `ModelError` unless latents, text features and pooled vector are as wide as the U-Net expects."""
    require_latents(name, parts)
    config = parts.network.config
    first, second = (parts.networks[text].config for text in ("text_encoder", "text_encoder_2"))
    width = first.hidden_size + second.hidden_size
    require_width(name, parts, "text features", text_width(parts.network), width)
    pooled = (config.projection_class_embeddings_input_dim or 0) - SIZES * (config.addition_time_embed_dim or 0)
    require_width(name, parts, "pooled features", pooled, second.projection_dim)


def make_encode(parts: Parts) -> Encode:
    """Return how this model reads prompts; `model_index.json` says what the empty one is."""
    return Encoding(bool(parts.index.get("force_zeros_for_empty_prompt", True)))


def make_call(parts: Parts) -> Call:
    """Return how this model's U-Net is called."""
    return Calling(parts.vae_scale)


SDXL = Family(
    key="sdxl",
    label="SDXL",
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    network=Part("unet", "UNet2DConditionModel"),
    texts=(
        (Part("tokenizer", "CLIPTokenizer"), Part("text_encoder", "CLIPTextModel")),
        (Part("tokenizer_2", "CLIPTokenizer"), Part("text_encoder_2", "CLIPTextModelWithProjection")),
    ),
    tiny="madebyollin/taesdxl",
    lengths=as_tokenizers_say,
    require_fit=require_fit,
    make_encode=make_encode,
    make_call=make_call,
    text_width=text_width,
)
