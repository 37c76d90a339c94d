"""SDXL: the features of two CLIP text models, the second one's pooled vector, and the picture's size as conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylescore.catalog import families as facts
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families.base import (
    Call,
    Checkpoint,
    ComponentSpec,
    Family,
    require_latents,
    require_width,
    tokenizer_lengths,
)
from stylescore.diffusion.families.sd import call_unet, text_width
from stylescore.diffusion.text import Encode, TextModel

_RELEASED_LAYER = 2
_SIZES = 6
"""Height, width; top and left edge of the crop; height and width once more."""


@dataclass(frozen=True)
class SdxlEncode:
    """Encodes prompts.

    Attributes:
        empty_is_zero: whether the features of the empty prompt are zeros, as in training, instead of CLIP's output.
        clip_skip: the layer of both models whose output is used, counted from the last, 1.
    """

    empty_is_zero: bool = True
    clip_skip: int = _RELEASED_LAYER

    def __call__(self, models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
        """Return both models' hidden states of a layer, without layer norm, and the second's pooled vector."""
        outputs = [models[name](prompts, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        states = [output.tokens(output.raw.hidden_states[-self.clip_skip]) for output in outputs]
        tokens = torch.cat(states, dim=-1)  # [batch, 77, 768 + 1280]
        features = Conditioning(tokens, outputs[1].pooled(outputs[1].raw.text_embeds))
        return features.mask([prompt != "" for prompt in prompts]) if self.empty_is_zero else features


@dataclass(frozen=True)
class SdxlCall:
    """Calls the U-Net.

    Attributes:
        pixels_per_cell: of a latent, on each axis.
    """

    pixels_per_cell: int

    def __call__(self, unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Call a diffusers `UNet2DConditionModel` with the size conditions of an uncropped picture at its own size."""
        added = {"text_embeds": conditioning.pooled, "time_ids": self._size_conditions(latents)}
        return call_unet(unet, latents, time, conditioning, added)

    def _size_conditions(self, latents: Tensor) -> Tensor:
        """Return original size, crop and target size in pixels, [batch, 6].

        Podell et al., *SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis*, ICLR 2024,
        section 2.2.
        """
        height, width = (self.pixels_per_cell * cells for cells in latents.shape[-2:])
        row = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=torch.float32)
        return row.expand(len(latents), _SIZES)


def _require_fit(name: str, checkpoint: Checkpoint) -> None:
    """Raise `ModelError` unless latents, text features and pooled vector are as wide as the U-Net expects."""
    require_latents(name, checkpoint)
    config = checkpoint.network.config
    first, second = (checkpoint.networks[text].config for text in ("text_encoder", "text_encoder_2"))
    width = first.hidden_size + second.hidden_size
    require_width(name, checkpoint, "text features", text_width(checkpoint.network), width)
    pooled = (config.projection_class_embeddings_input_dim or 0) - _SIZES * (config.addition_time_embed_dim or 0)
    require_width(name, checkpoint, "pooled features", pooled, second.projection_dim)


def _make_encode(checkpoint: Checkpoint) -> Encode:
    """Return how prompts are encoded; `model_index.json` says whether the empty one is zeros."""
    return SdxlEncode(bool(checkpoint.index.get("force_zeros_for_empty_prompt", True)))


def _make_call(checkpoint: Checkpoint) -> Call:
    """Return how this model's U-Net is called."""
    return SdxlCall(checkpoint.vae_scale)


SDXL = Family(
    facts=facts.SDXL,
    label=facts.SDXL.label,
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    network=ComponentSpec("unet", "UNet2DConditionModel"),
    text_models=(
        (ComponentSpec("tokenizer", "CLIPTokenizer"), ComponentSpec("text_encoder", "CLIPTextModel")),
        (ComponentSpec("tokenizer_2", "CLIPTokenizer"), ComponentSpec("text_encoder_2", "CLIPTextModelWithProjection")),
    ),
    max_lengths=tokenizer_lengths,
    require_fit=_require_fit,
    clip_skip=_RELEASED_LAYER,
    takes_control=True,
    make_encode=_make_encode,
    make_call=_make_call,
    text_width=text_width,
)
