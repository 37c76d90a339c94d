"""Stable Diffusion 3 and 3.5: two CLIP text models and a T5, a transformer with joint attention, a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylescore.diffusion.conditioning import Conditioning, Tokens
from stylescore.diffusion.families.base import Family, Part, Parts, always, require_latents, require_width
from stylescore.diffusion.text import Encode, Reader

T5_TOKENS = 256
STEPS = 1000
"""The network counts time in thousandths."""


@dataclass(frozen=True)
class Encoding:
    """How prompts are encoded.

    Attributes:
        width: of the features that joint attention reads.
    """

    width: int

    def __call__(self, readers: Mapping[str, Reader], prompts: Sequence[str]) -> Conditioning:
        """Return both CLIPs' last hidden states but one, side by side and filled up with zeros, then T5's tokens.

        The pooled vector is that of both CLIPs. A model without T5 gets zeros in its place.
        """
        outputs = [readers[name](prompts, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        clip = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        filled = F.pad(clip, (0, self.width - clip.shape[-1]))
        tokens = torch.cat([filled, self.t5(readers.get("text_encoder_3"), prompts).to(filled)], dim=1)
        return Conditioning(tokens, torch.cat([output.text_embeds for output in outputs], dim=-1))

    def t5(self, reader: Reader | None, prompts: Sequence[str]) -> Tokens:
        """Return T5's last hidden states, or zeros of the same shape."""
        if reader is None:
            return torch.zeros(len(prompts), T5_TOKENS, self.width)
        features: Tensor = reader(prompts).last_hidden_state
        return features


def call(transformer: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
    """Ask a diffusers `SD3Transformer2DModel` at time s in [0, 1]."""
    output: Tensor = transformer(
        hidden_states=latents,
        timestep=STEPS * time,
        encoder_hidden_states=conditioning.tokens,
        pooled_projections=conditioning.pooled,
    ).sample
    return output


def require_fit(name: str, parts: Parts) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the transformer expects."""
    require_latents(name, parts)
    clips = [parts.networks[text].config.projection_dim for text in ("text_encoder", "text_encoder_2")]
    require_width(name, parts, "pooled features", parts.network.config.pooled_projection_dim, sum(clips))
    if "text_encoder_3" in parts.networks:
        found = parts.networks["text_encoder_3"].config.d_model
        require_width(name, parts, "T5's features", text_width(parts.network), found)


def text_width(transformer: Any) -> int:
    """Return the width of the text features a transformer reads."""
    return int(transformer.config.joint_attention_dim)


def lengths(parts: Parts) -> Mapping[str, int]:
    """Return how many tokens T5 reads; its tokenizer would allow more."""
    del parts
    return {"text_encoder_3": T5_TOKENS}


def make_encode(parts: Parts) -> Encode:
    """Return how this model reads prompts."""
    return Encoding(text_width(parts.network))


SD3 = Family(
    key="sd3",
    label="Stable Diffusion 3",
    pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
    network=Part("transformer", "SD3Transformer2DModel"),
    texts=(
        (Part("tokenizer", "CLIPTokenizer"), Part("text_encoder", "CLIPTextModelWithProjection")),
        (Part("tokenizer_2", "CLIPTokenizer"), Part("text_encoder_2", "CLIPTextModelWithProjection")),
        (
            Part("tokenizer_3", "T5TokenizerFast", optional=True),
            Part("text_encoder_3", "T5EncoderModel", optional=True),
        ),
    ),
    flow=True,
    patch=2,
    tiny="madebyollin/taesd3",
    lengths=lengths,
    require_fit=require_fit,
    make_encode=make_encode,
    make_call=always(call),
    text_width=text_width,
)
