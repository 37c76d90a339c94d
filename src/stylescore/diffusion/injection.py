"""Self-attention of a U-Net's decoder that takes keys and values from another picture, in one call of the network.

The rows of the call are those of the content, of the style and of the picture, at one timestep. The layers of the first
two work as ever; the picture's mix their queries and read the style's keys and values. So nothing has to be stored
between calls, and outside the call the network is as it was.

Source: "Style Injection in Diffusion: A Training-free Approach for Adapting Large-scale Diffusion Models for Style
Transfer", CVPR 2024, sections 3.2 (attention-based style injection, query preservation) and 3.4 (temperature).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from stylescore.diffusion.adapters import Route
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.conditioning import Conditioning
from stylescore.errors import ConfigError
from stylescore.method.scores import NoisePredictor, Predictions, ScoreName
from stylescore.method.types import Draw, Latent, Noise, Timesteps

STREAMS = 3
"""Content, style and picture: the parts of a call's rows, in this order."""
LEVELS = 2
"""Levels of the decoder, from its end, whose attention is changed: the last six blocks of Stable Diffusion 1.x."""

Heads = Float[Tensor, "rows heads tokens width"]


def injected_attention(q: Heads, k: Heads, v: Heads, *, scale: float, gamma: float, temperature: float) -> Heads:
    """Return attention in which the picture's rows mix their queries with the content's and read the style.

    For the picture's rows: softmax(T scale (gamma q_content + (1 - gamma) q) k_style^T) v_style. Those of content and
    style are plain attention.

    Args:
        q: queries of content, style and picture, one after another.
        k: keys, in the same order.
        v: values, in the same order.
        scale: of the logits, 1 / sqrt(width).
        gamma: share of the content's queries, 0 to 1.
        temperature: T, further factor of the picture's logits.
    """
    content, _, own = q.chunk(STREAMS)
    others = len(q) - len(own)
    plain = F.scaled_dot_product_attention(q[:others], k[:others], v[:others], scale=scale)
    mixed = gamma * content + (1 - gamma) * own
    style_k, style_v = k.chunk(STREAMS)[1], v.chunk(STREAMS)[1]
    picture = F.scaled_dot_product_attention(mixed, style_k, style_v, scale=temperature * scale)
    return torch.cat([plain, picture])


@dataclass(frozen=True)
class InjectedProcessor:
    """Computes a self-attention layer of diffusers with `injected_attention`."""

    gamma: float
    temperature: float

    def __call__(self, attn: Any, hidden_states: Tensor, *rest: Any, **others: Any) -> Tensor:
        """Return the layer's output, [rows, tokens, features]; arguments of cross-attention are ignored."""
        del rest, others
        q, k, v = (
            layer(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = injected_attention(q, k, v, scale=attn.scale, gamma=self.gamma, temperature=self.temperature)
        output: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return output


def injected_layers(network: Any) -> list[Any]:
    """Return the self-attention layers of the last levels of a U-Net's decoder that have some.

    Raises:
        ConfigError: the network is no U-Net, or its decoder has none.
    """
    blocks = [block for block in getattr(network, "up_blocks", ()) if getattr(block, "attentions", None)]
    layers = [
        layer
        for block in blocks[-LEVELS:]
        for name, layer in block.named_modules()
        if name.endswith(".attn1") and hasattr(layer, "set_processor")
    ]
    if not layers:
        raise ConfigError(
            "styleid needs a U-Net with self-attention in its decoder, as Stable Diffusion 1.x, 2.x and SDXL have",
            hint="use another --model, or another --method",
        )
    return layers


@contextmanager
def processors(layers: Sequence[Any], processor: Any) -> Iterator[None]:
    """Give attention layers a processor inside the block, and their own after it, also when it fails."""
    before = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.processor = processor
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.processor = own


@dataclass(frozen=True)
class InjectedScore:
    """The prediction for a picture whose attention reads a style picture.

    Attributes:
        backbone: the plain network.
        empty: the encoded empty prompt, one row for each picture.
        content: the content's latents by timestep, as its inversion passed them.
        style: the style picture's, for each picture of the batch.
        processor: how attention is computed.
    """

    backbone: Backbone
    empty: Conditioning
    content: Mapping[int, Latent]
    style: Mapping[int, Latent]
    processor: InjectedProcessor

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Predict the noise in z_t; all pictures of a batch are at one timestep."""
        at = int(t[0])
        rows = torch.cat([self.content[at], self.style[at], z_t])
        empty = self.empty.select(list(range(len(z_t))) * STREAMS)
        with processors(injected_layers(self.backbone.network), self.processor):
            eps = self.backbone(rows, t.repeat(STREAMS), empty, Route())
        return eps.chunk(STREAMS)[-1]


@dataclass(frozen=True)
class InjectedScores:
    """The scores of a run that reads a style picture: there is one.

    Attributes:
        score: the prediction for the picture.
    """

    score: InjectedScore

    def __getitem__(self, name: ScoreName) -> NoisePredictor:
        """Return the score."""
        return self.score

    def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
        """Evaluate the score at the draw's noised latent."""
        return {name: self.score(draw.z_t, draw.t) for name in names}
