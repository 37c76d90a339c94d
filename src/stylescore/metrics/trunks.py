"""The convolutional trunks that LPIPS, CFSD and Gram matrices read their features from: AlexNet, VGG16 and VGG19.

Sources: "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012, in the one-tower form of
torchvision; "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, configurations D and E.
The layers have the names of torchvision's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from stylescore.errors import ModelError

Activation = Float[Tensor, "batch _channels _height _width"]

VGG16 = (2, 2, 3, 3, 3)
"""Number of convolutions before each pooling; those of VGG19 follow."""
VGG19 = (2, 2, 4, 4, 4)
_VGG_CHANNELS = (64, 128, 256, 512, 512)
_ALEXNET_CHANNELS = (3, 64, 192, 384, 256, 256)
_ALEXNET_KERNELS = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
"""Kernel, stride and padding of every convolution."""
_ALEXNET_POOLED = (0, 1, 4)
"""Convolutions that are followed by a pooling."""


class Trunk(nn.Module):
    """The convolutions of a classifier, and the activations after some of its layers.

    Attributes:
        name: of the network, for messages.
        features: the layers, numbered as in torchvision.
        relus: index of every ReLU among the layers.
    """

    def __init__(self, name: str, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.name = name
        self.features = nn.Sequential(*layers)
        self.relus = tuple(n for n, layer in enumerate(layers) if isinstance(layer, nn.ReLU))

    def load(self, state: Mapping[str, Any]) -> Trunk:
        """Load weights in torchvision's names; those of the classifier are left out.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        taken = {key: value for key, value in state.items() if key.startswith("features.")}
        try:
            self.load_state_dict(taken)
        except RuntimeError as error:
            raise ModelError(
                f"weights of {self.name} do not fit: {_first_line(error)}", hint=f"use torchvision's {self.name}"
            ) from error
        return self.eval().requires_grad_(False)

    def forward(self, x: Activation, taps: Sequence[int]) -> list[Activation]:
        """Return the activations after the layers `taps`, in ascending order; later layers are not computed."""
        found = []
        for number in range(max(taps) + 1):
            x = self.features[number](x)
            if number in taps:
                found.append(x)
        return found


def make_alexnet() -> Trunk:
    """Return AlexNet's convolutions, without weights."""
    layers: list[nn.Module] = []
    for number, (inside, outside) in enumerate(pairwise(_ALEXNET_CHANNELS)):
        layers += [nn.Conv2d(inside, outside, *_ALEXNET_KERNELS[number]), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if number in _ALEXNET_POOLED else []
    return Trunk("AlexNet", layers)


def make_vgg(depths: Sequence[int]) -> Trunk:
    """Return VGG's convolutions, without weights; `depths` is `VGG16` or `VGG19`."""
    layers: list[nn.Module] = []
    inside = 3
    for depth, channels in zip(depths, _VGG_CHANNELS, strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(inside, channels, 3, padding=1), nn.ReLU()]
            inside = channels
        layers.append(nn.MaxPool2d(2, 2))
    return Trunk(f"VGG{sum(depths) + 3}", layers)


def _first_line(error: Exception) -> str:
    """Return the first missing or misshapen tensor of torch's long message."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(lines[1:2] or lines)[:160]
