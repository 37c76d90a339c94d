"""Stable Diffusion 1.x and 2.x: one CLIP text model, a U-Net with cross-attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

RELEASED_LAYER = 1
"""The 2.x models use the penultimate layer of OpenCLIP, but their files leave out the last one."""


@dataclass(frozen=True)
class SdEncode:
    """Encodes prompts.

    Attributes:
        clip_skip: the layer whose output is used, counted from the last one that the model has, 1.
    """

    clip_skip: int = RELEASED_LAYER

    def __call__(self, models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
        """Return the hidden states of a layer, through the final layer norm."""
        model = models["text_encoder"]
        if self.clip_skip == RELEASED_LAYER:
            output = model(prompts)
            return Conditioning(output.tokens(output.raw.last_hidden_state))
        output = model(prompts, output_hidden_states=True)
        norm = getattr(model.model, "text_model", model.model).final_layer_norm
        return Conditioning(output.tokens(norm(output.raw.hidden_states[-self.clip_skip])))


def call(unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call a diffusers `UNet2DConditionModel`."""
    return call_unet(unet, latents, time, conditioning, None)


def call_unet(unet: Any, latents: Tensor, time: Tensor, conditioning: Conditioning, added: Any) -> Tensor:
    """Call a diffusers `UNet2DConditionModel`, with a ControlNet's residuals and an IP-Adapter's pictures, if any.

    Args:
        unet: the network.
        latents: [batch, c, h, w].
        time: [batch].
        conditioning: the prompts.
        added: further conditions, as `added_cond_kwargs`.
    """
    tokens, control = conditioning.tokens, conditioning.control
    residuals = {} if control is None else control.residuals(latents, time, tokens, added)
    if conditioning.images:
        added = {**(added or {}), "image_embeds": list(conditioning.images)}
    output: Tensor = unet(latents, time, encoder_hidden_states=tokens, added_cond_kwargs=added, **residuals).sample
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
    clip_skip=RELEASED_LAYER,
    takes_control=True,
    make_encode=always(SdEncode()),
    make_call=always(call),
    text_width=text_width,
)
