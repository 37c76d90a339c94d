"""Perceptual distance of two pictures: LPIPS with a network that tolerates small shifts.

Sources: "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1;
"Shift-tolerant Perceptual Similarity Metric", ECCV 2022, whose AlexNet halves the resolution by blurred subsampling
instead of strides alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stylescore.errors import ModelError, PictureError
from stylescore.method.types import PerSample

CHANNELS = (64, 192, 384, 256, 256)
SMALLEST_SIDE = 21
PUBLISHED_NAMES = {
    "shift": "scaling_layer.shift",
    "scale": "scaling_layer.scale",
    "blurs.0.kernel": "net.slice1.1.filt",
    "blurs.1.kernel": "net.slice2.4.filt",
    "blurs.2.kernel": "net.slice3.8.filt",
    **{
        f"convolutions.{level}.{part}": f"net.{name}.{part}"
        for level, name in enumerate(("slice1.0", "slice2.5", "slice3.9", "slice4.11", "slice5.13"))
        for part in ("weight", "bias")
    },
    **{f"weights.{level}": f"lin{level}.model.1.weight" for level in range(5)},
}
"""Names of the tensors here, and in the published weights."""

Activation = Float[Tensor, "batch _channels _height _width"]


class Blur(nn.Module):
    """Halves the resolution after a binomial blur of 3 x 3 pixels, with two pixels of mirrored border."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone())

    def forward(self, x: Activation) -> Activation:
        """Return the activations at half the resolution."""
        bordered = functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(bordered, self.kernel, stride=2, groups=len(self.kernel))


class PerceptualDistance(nn.Module):
    """LPIPS: the weighted squared difference of five levels of unit feature vectors, averaged over the picture.

    Attributes:
        convolutions: the five of AlexNet, the first without its stride.
        blurs: one for each of the first three levels.
        weights: one learned factor per channel and level, shaped [1, channels, 1, 1].
    """

    shift: Tensor
    scale: Tensor
    smallest_side = SMALLEST_SIDE

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )
        self.blurs = nn.ModuleList([Blur(64), Blur(64), Blur(192)])
        self.weights = nn.ParameterList([torch.zeros(1, channels, 1, 1) for channels in CHANNELS])

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PerceptualDistance:
        """Build the network from a state dict in the published names.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        missing = sorted(set(PUBLISHED_NAMES.values()) - set(state))
        if missing:
            raise ModelError(
                f"weights of LPIPS lack {missing[0]!r}", hint="use the weights of the shift-tolerant AlexNet"
            )
        network = cls()
        try:
            network.load_state_dict({ours: state[theirs] for ours, theirs in PUBLISHED_NAMES.items()})
        except RuntimeError as error:
            raise ModelError(
                f"weights of LPIPS do not fit: {error}", hint="use the weights of the shift-tolerant AlexNet"
            ) from error
        return network.eval().requires_grad_(False)

    def levels(self, pictures: Activation) -> list[Activation]:
        """Return the features of the five levels, of unit length at every position."""
        x = (pictures - self.shift) / self.scale
        features = []
        for level, convolution in enumerate(self.convolutions):
            x = convolution(self._downsample(x, level)) if level else self.blurs[0](convolution(x))
            x = x.relu()
            features.append(unit_features(x))
        return features

    def _downsample(self, x: Activation, level: int) -> Activation:
        """Return the input of a level's convolution, for levels above 0: at levels 1 and 2 the blurred maximum."""
        return self.blurs[level](functional.max_pool2d(x, 3, stride=1)) if level < len(self.blurs) else x

    def forward(self, first: Float[Tensor, ...], second: Float[Tensor, ...]) -> PerSample:
        """Return one distance for every pair of pictures.

        Args:
            first: pictures in [-1, 1], [batch, 3, height, width], both sides at least 21.
            second: pictures of the same shape; the distance is symmetric.

        Raises:
            PictureError: the shapes differ, or are not those of pictures.
        """
        check_pictures(first, second, SMALLEST_SIDE)
        return weighted_difference(self.levels(first), self.levels(second), self.weights)


def unit_features(x: Activation) -> Activation:
    """Return activations with the vector of channels at every position scaled to unit length."""
    unit: Tensor = x / (x.norm(dim=1, keepdim=True) + 1e-10)
    return unit


def weighted_difference(
    first: Sequence[Activation], second: Sequence[Activation], weights: Iterable[Tensor]
) -> PerSample:
    """Return sum_l mean over positions of sum_c w_lc (x_lc - y_lc)^2: LPIPS of the levels of two batches.

    Args:
        first: one activation for each level, [batch, channels, height, width].
        second: activations of the same shapes.
        weights: one factor per channel for each level, [1, channels, 1, 1].
    """
    pairs = zip(first, second, weights, strict=True)
    differences = [((a - b).square() * weight).sum(dim=1).mean(dim=(1, 2)) for a, b, weight in pairs]
    total: Tensor = torch.stack(differences).sum(dim=0)
    return total


def check_pictures(first: Tensor, second: Tensor, smallest: int) -> None:
    """Raise `PictureError` unless both are batches of pictures of one size, with sides of at least `smallest`."""
    shapes = list(first.shape), list(second.shape)
    if shapes[0] != shapes[1]:
        raise PictureError(f"two batches of pictures must have the same shape, got {shapes[0]} and {shapes[1]}")
    if first.dim() != 4 or first.shape[1] != 3 or min(first.shape[2:]) < smallest:
        raise PictureError(
            f"pictures must be [batch, 3, height, width] with sides of at least {smallest}, got {shapes[0]}"
        )
