"""CSD: a CLIP vision transformer with a projection that was trained to tell styles apart.

Sources: "Measuring Style Similarity in Diffusion Models", 2024, section 4; the transformer, "Learning Transferable
Visual Models From Natural Language Supervision", ICML 2021. The layers have the names of the released weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stylescore.errors import ModelError
from stylescore.metrics.preparation import CLIP, centre_square, standardise

HEAD_WIDTH = 64
"""Channels of an attention head in every CLIP transformer."""

Tokens = Float[Tensor, "batch tokens width"]
Pictures = Float[Tensor, "batch 3 _height _width"]


class _Mlp(nn.Module):
    """Two linear layers with the approximation x sigmoid(1.702 x) of GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tokens) -> Tokens:
        wide = self.c_fc(x)
        y: Tensor = self.c_proj(wide * torch.sigmoid(1.702 * wide))
        return y


class _Layer(nn.Module):
    """Attention and an MLP, each with a layer norm before and a residual connection around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.mlp = _Mlp(width)

    def forward(self, x: Tokens) -> Tokens:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        z: Tensor = x + self.mlp(self.ln_2(x))
        return z


class _Transformer(nn.Module):
    """The layers, under the name that the weights have."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(_Layer(width) for _ in range(depth)))

    def forward(self, x: Tokens) -> Tokens:
        y: Tensor = self.resblocks(x)
        return y


class _Backbone(nn.Module):
    """CLIP's vision transformer without its projection: the class token after the last layer."""

    def __init__(self, width: int, depth: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Transformer(width, depth)

    def forward(self, x: Pictures) -> Float[Tensor, "batch width"]:
        patches = self.conv1(x).flatten(2).transpose(1, 2)  # [batch, patches, width]
        start = self.class_embedding.expand(len(x), 1, -1)
        tokens = self.ln_pre(torch.cat([start, patches], dim=1) + self.positional_embedding)
        y: Tensor = self.ln_post(self.transformer(tokens)[:, 0])
        return y


class StyleEmbedding(nn.Module):
    """CSD's embedding of a picture's style, of unit length.

    Attributes:
        side: of the square that the network sees, in pixels.
    """

    def __init__(self, width: int, depth: int, patch: int, tokens: int, out: int) -> None:
        super().__init__()
        self.side = patch * round((tokens - 1) ** 0.5)
        self.backbone = _Backbone(width, depth, patch, tokens)
        self.last_layer_style = nn.Parameter(torch.zeros(width, out))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StyleEmbedding:
        """Build the network from the released weights; its sizes are those of the tensors.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        hint = "use the weights of CSD ViT-L"
        own = {name: tensor.float() for name, tensor in state.items() if name != "last_layer_content"}
        try:
            network = cls(*_sizes(own))
            network.load_state_dict(own)
        except KeyError as error:
            raise ModelError(f"weights of CSD lack {error.args[0]!r}", hint=hint) from error
        except RuntimeError as error:
            raise ModelError(f"weights of CSD do not fit: {error}", hint=hint) from error
        return network.eval().requires_grad_(False)

    def forward(self, pictures: Pictures) -> Float[Tensor, "batch numbers"]:
        """Return the embeddings of pictures in [-1, 1]: the middle square of each, at the network's size."""
        x = standardise(centre_square(pictures, self.side), CLIP)
        return functional.normalize(self.backbone(x) @ self.last_layer_style, dim=1)


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int, int, int]:
    """Return width, depth, patch size, number of tokens and size of the embedding."""
    width, _, patch, _ = state["backbone.conv1.weight"].shape
    layers = {match[1] for name in state if (match := re.match(r"backbone\.transformer\.resblocks\.(\d+)\.", name))}
    tokens = len(state["backbone.positional_embedding"])
    return width, len(layers), patch, tokens, state["last_layer_style"].shape[1]
