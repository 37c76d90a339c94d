"""Hidden features of a diffusion model, which judge pictures without other weights, and a perceptual distance in them.

Formula of "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1, without
learned factors; features of a frozen denoising network as in "Diffusion Model with Perceptual Loss", arXiv 2401.00110.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.diffusion.adapters import Route
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.codec import Codec, Pictures
from stylescore.diffusion.conditioning import Conditioning
from stylescore.method.types import Latent, Noise, PerSample, Timesteps

LEVELS = 4
"""Blocks of a transformer whose outputs are compared; a U-Net is compared at each level of its encoder."""


class _StopError(Exception):
    """Leaves the network's forward pass after the last layer whose output is compared."""


@dataclass(frozen=True)
class FeatureDistance:
    """The distance of two latents in the features that a network without adapters has of them.

    Attributes:
        backbone: a frozen network.
        empty: the encoded empty prompt, one row.
    """

    backbone: Backbone
    empty: Conditioning

    def __call__(self, first: Latent, second: Latent, eps: Noise, t: Timesteps) -> PerSample:
        """Return one distance a pair, differentiable in `first`, and 0 where both are the same.

        Args:
            first: latents.
            second: latents of the same shape; nothing flows back into them.
            eps: noise that both are noised with.
            t: a timestep for each pair; small ones compare detail.
        """
        return feature_distance(*self.both(first, second, eps, t))

    def both(self, first: Latent, second: Latent, eps: Noise, t: Timesteps) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of two latents under the same noise; nothing flows back into the second."""
        with torch.no_grad():
            wanted = self.features(second, eps, t)
        return self.features(first, eps, t), wanted

    def features(self, z: Latent, eps: Noise, t: Timesteps) -> list[Tensor]:
        """Return the outputs of the compared layers, [batch, c, h, w] or [batch, tokens, c]."""
        z_t = self.backbone.schedule.add_noise(z, eps, t)
        layers = compared_layers(self.backbone.network)
        with _outputs(layers, last=layers[-1]) as found, suppress(_StopError):
            self.backbone(z_t, t, self.empty.select([0] * len(z)), Route())
        return [part.float() for part in found]


def encode_with_features(codec: Codec, pictures: Pictures) -> tuple[Latent, list[Tensor]]:
    """Encode with gradient, and return what the encoder sees on its way: each [batch, c, h, w], the finest first.

    These are the outputs of its first layer and of all blocks but the last one, whose output is nearly the latent. They
    are in the encoder's precision: most callers need the latent alone, and a copy of the finest one is large.
    """
    encoder = codec.vae.encoder
    with _outputs([encoder.conv_in, *encoder.down_blocks[:-1]]) as found:
        latent = codec.encode_differentiably(pictures)
    return latent, found


def compared_layers(network: Any) -> list[nn.Module]:
    """Return the layers whose outputs are compared: a U-Net's encoder and middle, or blocks of a transformer."""
    down = getattr(network, "down_blocks", None)
    if down is not None:
        middle = getattr(network, "mid_block", None)
        return [*down, *([] if middle is None else [middle])]
    blocks = list(network.transformer_blocks)
    return [blocks[len(blocks) * level // (2 * LEVELS)] for level in range(1, LEVELS + 1)]


@contextmanager
def _outputs(layers: Sequence[nn.Module], last: nn.Module | None = None) -> Iterator[list[Tensor]]:
    """Collect the outputs of layers in a forward pass, and end it after `last`, if it is given."""
    found: list[Tensor] = []

    def collect(layer: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        found.append(_main_output(output))
        if layer is last:
            raise _StopError

    handles = [layer.register_forward_hook(collect) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _main_output(output: Any) -> Tensor:
    """Return a layer's hidden state: its output, or the last tensor among several, as transformer blocks return it."""
    parts = [output] if isinstance(output, Tensor) else [part for part in output if isinstance(part, Tensor)]
    return parts[-1]


def feature_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> PerSample:
    """Return the distance of two pictures by their features: the mean over layers."""
    return torch.stack([_unit_distance(ours, theirs) for ours, theirs in zip(first, second, strict=True)]).mean(dim=0)


def _unit_distance(first: Tensor, second: Tensor) -> PerSample:
    """Return the mean squared distance of the unit feature vectors of all positions."""
    axis = 1 if first.ndim == 4 else 2
    ours, theirs = (part / (part.norm(dim=axis, keepdim=True) + 1e-6) for part in (first, second))
    distance: Tensor = (ours - theirs).square().sum(dim=axis)
    return distance.flatten(1).mean(dim=1)
