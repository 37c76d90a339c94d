"""Stable Diffusion 3 and 3.5: two CLIP text models and a T5, a transformer with joint attention, a rectified flow.

Esser et al., *Scaling Rectified Flow Transformers for High-Resolution Image Synthesis*, ICML 2024, section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylescore.catalog import families as facts
from stylescore.diffusion.conditioning import Conditioning, Tokens
from stylescore.diffusion.families.base import (
    Checkpoint,
    ComponentSpec,
    Family,
    always,
    require_latents,
    require_width,
)
from stylescore.diffusion.text import Encode, TextModel

T5_TOKENS = 256
_TIME_STEPS = 1000
"""The network takes its time in thousandths."""


@dataclass(frozen=True)
class Sd3Encode:
    """Encodes prompts.

    Attributes:
        width: of the features that joint attention reads.
    """

    width: int

    def __call__(self, models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
        """Return the penultimate hidden states of both CLIPs, padded with zeros, then the tokens of T5.

        The pooled vector is that of both CLIPs. A model without T5 gets zeros in place of its tokens.
        """
        outputs = [models[name](prompts, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        clip = torch.cat(
            [output.tokens(output.raw.hidden_states[-2]) for output in outputs], dim=-1
        )  # [batch, 77, 768 + 1280]
        clip = F.pad(clip, (0, self.width - clip.shape[-1]))  # [batch, 77, width]
        tokens = torch.cat([clip, self._encode_t5(models.get("text_encoder_3"), prompts).to(clip)], dim=1)
        return Conditioning(tokens, torch.cat([output.pooled(output.raw.text_embeds) for output in outputs], dim=-1))

    def _encode_t5(self, model: TextModel | None, prompts: Sequence[str]) -> Tokens:
        """Return T5's last hidden states, [batch, 256, width], or zeros of that shape."""
        if model is None:
            return torch.zeros(len(prompts), T5_TOKENS, self.width)
        output = model(prompts)
        return output.tokens(output.raw.last_hidden_state)


def call(transformer: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Call a diffusers `SD3Transformer2DModel` at time s in [0, 1]."""
    output: Tensor = transformer(
        hidden_states=latents,
        timestep=_TIME_STEPS * time,
        encoder_hidden_states=conditioning.tokens,
        pooled_projections=conditioning.pooled,
    ).sample
    return output


def _require_fit(name: str, checkpoint: Checkpoint) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the transformer expects."""
    require_latents(name, checkpoint)
    clips = [checkpoint.networks[text].config.projection_dim for text in ("text_encoder", "text_encoder_2")]
    pooled = checkpoint.network.config.pooled_projection_dim
    require_width(name, checkpoint, "pooled features", pooled, sum(clips))
    if "text_encoder_3" in checkpoint.networks:
        found = checkpoint.networks["text_encoder_3"].config.d_model
        require_width(name, checkpoint, "T5's features", text_width(checkpoint.network), found)


def text_width(transformer: Any) -> int:
    """Return the width of the text features that a transformer's joint attention reads."""
    return int(transformer.config.joint_attention_dim)


def _max_lengths(checkpoint: Checkpoint) -> Mapping[str, int]:
    """Return how many tokens T5 takes; its tokenizer would allow more."""
    del checkpoint
    return {"text_encoder_3": T5_TOKENS}


def _make_encode(checkpoint: Checkpoint) -> Encode:
    """Return how this model's prompts are encoded."""
    return Sd3Encode(text_width(checkpoint.network))


SD3 = Family(
    facts=facts.SD3,
    label=facts.SD3.label,
    pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
    network=ComponentSpec("transformer", "SD3Transformer2DModel"),
    text_models=(
        (ComponentSpec("tokenizer", "CLIPTokenizer"), ComponentSpec("text_encoder", "CLIPTextModelWithProjection")),
        (ComponentSpec("tokenizer_2", "CLIPTokenizer"), ComponentSpec("text_encoder_2", "CLIPTextModelWithProjection")),
        (
            ComponentSpec("tokenizer_3", "T5TokenizerFast", is_optional=True),
            ComponentSpec("text_encoder_3", "T5EncoderModel", is_optional=True),
        ),
    ),
    is_flow=True,
    patch=2,
    max_lengths=_max_lengths,
    require_fit=_require_fit,
    make_encode=_make_encode,
    make_call=always(call),
    text_width=text_width,
)
