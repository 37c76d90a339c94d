"""LPIPS in its published form: with an AlexNet or a VGG16.

Source: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1, version 0.1 of
its weights. `perceptual` is the variant that tolerates small shifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylescore.errors import ModelError
from stylescore.method.types import PerSample
from stylescore.metrics.perceptual import check_pictures, unit_features, weighted_difference
from stylescore.metrics.trunks import VGG16, Activation, Trunk, make_alexnet, make_vgg

SMALLEST_SIDE = {"AlexNet": 35, "VGG16": 16}
"""Shortest side in pixels for which every level has at least one position."""
_LAST_OF_BLOCK = (1, 3, 6, 9, 12)
"""Of VGG16's ReLUs, the last one before each pooling."""


class Lpips(nn.Module):
    """LPIPS: the weighted squared difference of five levels of unit feature vectors, averaged over the picture.

    Attributes:
        trunk: AlexNet or VGG16.
        taps: index of the layers whose activations are the levels.
        weights: one learned factor per channel and level, shaped [1, channels, 1, 1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk, taps: tuple[int, ...], linear: Mapping[str, Any]) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.trunk, self.taps = trunk, taps
        self.weights = nn.ParameterList([_linear(linear, level, trunk, tap) for level, tap in enumerate(taps)])
        self.eval().requires_grad_(False)

    @classmethod
    def with_alexnet(cls, trunk: Mapping[str, Any], linear: Mapping[str, Any]) -> Lpips:
        """Build LPIPS (AlexNet) from torchvision's weights and the published linear ones.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        network = make_alexnet().load(trunk)
        return cls(network, network.relus, linear)

    @classmethod
    def with_vgg(cls, trunk: Mapping[str, Any], linear: Mapping[str, Any]) -> Lpips:
        """Build LPIPS (VGG) from torchvision's weights of VGG16 and the published linear ones.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        network = make_vgg(VGG16).load(trunk)
        return cls(network, tuple(network.relus[n] for n in _LAST_OF_BLOCK), linear)

    def levels(self, pictures: Activation) -> list[Activation]:
        """Return the features of the five levels, of unit length at every position."""
        return [unit_features(x) for x in self.trunk((pictures - self.shift) / self.scale, self.taps)]

    @property
    def smallest_side(self) -> int:
        """Least height and width of a picture in pixels."""
        return SMALLEST_SIDE[self.trunk.name]

    def forward(self, first: Float[Tensor, ...], second: Float[Tensor, ...]) -> PerSample:
        """Return one distance for every pair of pictures in [-1, 1], [batch, 3, height, width]; it is symmetric.

        Raises:
            PictureError: the shapes differ, or are not those of pictures.
        """
        check_pictures(first, second, self.smallest_side)
        return weighted_difference(self.levels(first), self.levels(second), self.weights)


def _linear(state: Mapping[str, Any], level: int, trunk: Trunk, tap: int) -> nn.Parameter:
    """Return a level's learned factors, checked against the channels of the activation they weigh."""
    found = state.get(f"lin{level}.model.1.weight")
    channels = trunk.features[tap - 1].out_channels
    shape = None if found is None else tuple(found.shape)
    if found is None or shape != (1, channels, 1, 1):
        raise ModelError(
            f"linear weights of LPIPS do not fit {trunk.name}: level {level} has the shape {shape}, "
            f"expected {(1, channels, 1, 1)}",
            hint="use the file of version 0.1 for this network",
        )
    return nn.Parameter(found.float())
