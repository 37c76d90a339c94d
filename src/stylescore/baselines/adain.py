"""AdaIN: a VGG encodes photo and style picture, the photo's features take the style's statistics, a network decodes.

Source: "Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization", ICCV 2017, equations 8 and 14. The
layers are numbered as in the files that are passed around for PyTorch: `vgg_normalised.pth`, a VGG19 with reflected
borders that begins with a convolution for the colours, and `decoder.pth`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.baselines.pixels import Pictures
from stylescore.baselines.styleid import match_statistics
from stylescore.errors import ModelError

_ENCODED = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256, 256), (256, 512))
"""Channels of VGG19's convolutions up to relu4_1, by block."""
_DECODED = ((512, 256), (256, 256, 256, 256, 128), (128, 128, 64), (64, 64, 3))


@dataclass(frozen=True)
class AdainNetwork:
    """Encoder and decoder.

    Attributes:
        encoder: pictures in [0, 1] to relu4_1 of VGG19, frozen.
        decoder: features of relu4_1 to pictures in [0, 1].
    """

    encoder: nn.Sequential
    decoder: nn.Sequential

    @classmethod
    def from_states(cls, encoder: Mapping[str, Any], decoder: Mapping[str, Any]) -> AdainNetwork:
        """Build the networks from state dicts in the published names; layers after relu4_1 are left out.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        networks = make_encoder(), make_decoder()
        for network, state, name in zip(networks, (encoder, decoder), ("encoder", "decoder"), strict=True):
            _load(network, state, name)
        return cls(*networks)

    def to(self, device: torch.device) -> AdainNetwork:
        """Return the networks on a device."""
        return AdainNetwork(self.encoder.to(device), self.decoder.to(device))

    @torch.no_grad()
    def __call__(self, photos: Pictures, style: Pictures, strength: float) -> Pictures:
        """Return g((1 - alpha) f(c) + alpha AdaIN(f(c), f(s))), in [-1, 1].

        Args:
            photos: c in [-1, 1], [batch, 3, h, w] with sides that are multiples of 8.
            style: s in [-1, 1], [1, 3, h, w], which may have another size.
            strength: alpha in [0, 1]; at 0 the photo comes out as encoder and decoder have it.
        """
        content, target = (self.encoder((pictures + 1) / 2) for pictures in (photos, style))
        mixed = (1 - strength) * content + strength * match_statistics(content, target)
        picture: Tensor = self.decoder(mixed)
        return (2 * picture - 1).clamp(-1, 1)


def _convolutions(channels: tuple[int, ...]) -> Iterator[nn.Module]:
    """Yield a block's layers: reflected borders, a convolution and a ReLU for every two numbers of channels."""
    for inside, outside in pairwise(channels):
        yield from (nn.ReflectionPad2d(1), nn.Conv2d(inside, outside, 3), nn.ReLU())


def make_encoder() -> nn.Sequential:
    """Return the encoder, without weights."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    for number, channels in enumerate(_ENCODED):
        layers += [nn.MaxPool2d(2, 2, ceil_mode=True)] if number else []
        layers += _convolutions(channels)
    return nn.Sequential(*layers)


def make_decoder() -> nn.Sequential:
    """Return the decoder, without weights; its last convolution has no ReLU."""
    layers: list[nn.Module] = []
    for number, channels in enumerate(_DECODED):
        layers += [nn.Upsample(scale_factor=2, mode="nearest")] if number else []
        layers += _convolutions(channels)
    return nn.Sequential(*layers[:-1])


def _load(network: nn.Sequential, state: Mapping[str, Any], name: str) -> None:
    own = network.state_dict()
    missing = sorted(key for key, tensor in own.items() if key not in state or state[key].shape != tensor.shape)
    if missing:
        raise ModelError(
            f"weights of AdaIN's {name} do not fit: {missing[0]!r} is missing or has another shape",
            hint="use vgg_normalised.pth as adain-encoder and decoder.pth as adain-decoder",
        )
    network.load_state_dict({key: state[key] for key in own})
    network.eval().requires_grad_(False)
