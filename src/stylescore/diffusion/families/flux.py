"""FLUX.1: CLIP's pooled vector, T5's tokens, a transformer over 2 x 2 patches of the latent, a flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families.base import Call, Family, Part, Parts, always, require_latents, require_width
from stylescore.diffusion.families.sd3 import text_width
from stylescore.diffusion.text import Reader
from stylescore.method.types import Latent

PATCH = 2
DEV_TOKENS = 512
SCHNELL_TOKENS = 256
PLAIN_GUIDANCE = 1.0
"""What FLUX.1-dev is told as its guidance: the prediction for the prompt alone. Guidance is the objective's."""


def encode(readers: Mapping[str, Reader], prompts: Sequence[str]) -> Conditioning:
    """Return T5's last hidden states and CLIP's pooled vector."""
    pooled = readers["text_encoder"](prompts).pooler_output
    return Conditioning(readers["text_encoder_2"](prompts).last_hidden_state, pooled)


def packed(latents: Latent) -> Tensor:
    """Return 2 x 2 cells as one token, [batch, (h / 2) (w / 2), 4 c], channels outermost, rows first."""
    batch, channels, height, width = latents.shape
    cells = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, height: int, width: int) -> Latent:
    """Return tokens as a latent of height x width cells; undoes `packed`."""
    batch, channels = len(tokens), tokens.shape[-1] // PATCH**2
    cells = tokens.reshape(batch, height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Return (0, row, column) of every token of a latent of height x width cells, [tokens, 3]."""
    rows, columns = (torch.arange(cells // PATCH, device=device, dtype=torch.float32) for cells in (height, width))
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1)


@dataclass(frozen=True)
class Calling:
    """How the transformer is called.

    Attributes:
        guided: whether it takes a guidance scale as an input, as FLUX.1-dev does and schnell does not.
    """

    guided: bool

    def __call__(self, transformer: Any, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Ask a diffusers `FluxTransformer2DModel` at time s in [0, 1]; latents come and go unpacked."""
        height, width = latents.shape[-2:]
        tokens = conditioning.tokens
        output: Tensor = transformer(
            hidden_states=packed(latents),
            timestep=time,
            guidance=torch.full_like(time, PLAIN_GUIDANCE) if self.guided else None,
            encoder_hidden_states=tokens,
            pooled_projections=conditioning.pooled,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=latents.device),
            img_ids=places(height, width, latents.device),
        ).sample
        return unpacked(output, height, width)


def require_fit(name: str, parts: Parts) -> None:
    """Raise `ModelError` unless latents and text features are as wide as the transformer expects."""
    require_latents(name, parts, PATCH * PATCH)
    clip, t5 = (parts.networks[text].config for text in ("text_encoder", "text_encoder_2"))
    require_width(name, parts, "pooled features", parts.network.config.pooled_projection_dim, clip.hidden_size)
    require_width(name, parts, "T5's features", text_width(parts.network), t5.d_model)


def guided(parts: Parts) -> bool:
    """Tell whether the transformer takes a guidance scale."""
    return bool(parts.network.config.guidance_embeds)


def lengths(parts: Parts) -> Mapping[str, int]:
    """Return how many tokens T5 reads: schnell was made for fewer than dev."""
    return {"text_encoder_2": DEV_TOKENS if guided(parts) else SCHNELL_TOKENS}


def make_call(parts: Parts) -> Call:
    """Return how this model's transformer is called."""
    return Calling(guided(parts))


FLUX = Family(
    key="flux",
    label="FLUX.1",
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline"),
    network=Part("transformer", "FluxTransformer2DModel"),
    texts=(
        (Part("tokenizer", "CLIPTokenizer"), Part("text_encoder", "CLIPTextModel")),
        (Part("tokenizer_2", "T5TokenizerFast"), Part("text_encoder_2", "T5EncoderModel")),
    ),
    flow=True,
    patch=PATCH,
    tiny="madebyollin/taef1",
    lengths=lengths,
    require_fit=require_fit,
    make_encode=always(encode),
    make_call=make_call,
    text_width=text_width,
)
