"""FLUX.1: CLIP's pooled vector, T5's tokens, a transformer over 2 x 2 patches of the latent, a rectified flow."""

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
    always,
    require_latents,
    require_width,
)
from stylescore.diffusion.families.sd3 import text_width
from stylescore.diffusion.text import TextModel
from stylescore.method.types import Latent

_PATCH = 2
DEV_TOKENS = 512
_SCHNELL_TOKENS = 256
_NO_GUIDANCE = 1.0
"""The guidance input of FLUX.1-dev that gives the prediction for the prompt alone; the objective guides by itself."""


def encode(models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
    """Return T5's last hidden states and CLIP's pooled vector."""
    clip, t5 = models["text_encoder"](prompts), models["text_encoder_2"](prompts)
    return Conditioning(t5.tokens(t5.raw.last_hidden_state), clip.pooled(clip.raw.pooler_output))


def pack(latents: Latent) -> Tensor:
    """Turn each patch of 2 x 2 cells into a token, [batch, (h / 2) (w / 2), 4 c], channels outermost, rows first."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
    patches = patches.permute(0, 2, 4, 1, 3, 5)  # [batch, c, h/2, 2, w/2, 2] -> [batch, h/2, w/2, c, 2, 2]
    return patches.flatten(3).flatten(1, 2)  # [batch, (h/2) (w/2), 4 c]


def unpack(tokens: Tensor, height: int, width: int) -> Latent:
    """Turn tokens back into a latent of height x width cells; the inverse of `pack`."""
    batch, channels = len(tokens), tokens.shape[-1] // _PATCH**2
    patches = tokens.reshape(batch, height // _PATCH, width // _PATCH, channels, _PATCH, _PATCH)
    patches = patches.permute(0, 3, 1, 4, 2, 5)  # [batch, h/2, w/2, c, 2, 2] -> [batch, c, h/2, 2, w/2, 2]
    return patches.reshape(batch, channels, height, width)


def _token_positions(height: int, width: int, device: torch.device) -> Tensor:
    """Return (0, row, column) of every token of a latent of height x width cells, [tokens, 3]."""
    rows, columns = (torch.arange(cells // _PATCH, device=device, dtype=torch.float32) for cells in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # [(h/2) (w/2), 2]
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


@dataclass(frozen=True)
class FluxCall:
    """Calls the transformer.

    Attributes:
        has_guidance_input: whether it takes a guidance scale as an input; FLUX.1-dev does, schnell does not.
    """

    has_guidance_input: bool

    def __call__(self, transformer: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Call a diffusers `FluxTransformer2DModel` at time s in [0, 1]; latents and output are not packed."""
        height, width = latents.shape[-2:]
        tokens = conditioning.tokens
        output: Tensor = transformer(
            hidden_states=pack(latents),
            timestep=time,
            guidance=torch.full_like(time, _NO_GUIDANCE) if self.has_guidance_input else None,
            encoder_hidden_states=tokens,
            pooled_projections=conditioning.pooled,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=latents.device),
            img_ids=_token_positions(height, width, latents.device),
        ).sample
        return unpack(output, height, width)


def _require_fit(name: str, checkpoint: Checkpoint) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the transformer expects."""
    require_latents(name, checkpoint, _PATCH * _PATCH)
    clip, t5 = (checkpoint.networks[text].config for text in ("text_encoder", "text_encoder_2"))
    pooled = checkpoint.network.config.pooled_projection_dim
    require_width(name, checkpoint, "pooled features", pooled, clip.hidden_size)
    require_width(name, checkpoint, "T5's features", text_width(checkpoint.network), t5.d_model)


def _has_guidance_input(checkpoint: Checkpoint) -> bool:
    """Tell whether the transformer takes a guidance scale."""
    return bool(checkpoint.network.config.guidance_embeds)


def _max_lengths(checkpoint: Checkpoint) -> Mapping[str, int]:
    """Return how many tokens T5 takes: schnell was trained with fewer than dev."""
    return {"text_encoder_2": DEV_TOKENS if _has_guidance_input(checkpoint) else _SCHNELL_TOKENS}


def _make_call(checkpoint: Checkpoint) -> Call:
    """Return how this model's transformer is called."""
    return FluxCall(_has_guidance_input(checkpoint))


FLUX = Family(
    facts=facts.FLUX,
    label=facts.FLUX.label,
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline"),
    network=ComponentSpec("transformer", "FluxTransformer2DModel"),
    text_models=(
        (ComponentSpec("tokenizer", "CLIPTokenizer"), ComponentSpec("text_encoder", "CLIPTextModel")),
        (ComponentSpec("tokenizer_2", "T5TokenizerFast"), ComponentSpec("text_encoder_2", "T5EncoderModel")),
    ),
    is_flow=True,
    patch=_PATCH,
    max_lengths=_max_lengths,
    require_fit=_require_fit,
    make_encode=always(encode),
    make_call=_make_call,
    text_width=text_width,
)
