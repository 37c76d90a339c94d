"""MobileNetV2 trained on ImageNet, whose features are used for the distances between sets of pictures.

Source: "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2. The layers have the names
of torchvision's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from stylescore.errors import ModelError
from stylescore.metrics.features import Features
from stylescore.metrics.preparation import IMAGENET, standardise

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, number of blocks and first stride of every stage."""
WIDTH = 1280


def _convolution(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU limited to 6."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expands the channels (unless the expansion is 1), filters each by itself, and reduces them without a ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.residual = stride == 1 and inside == outside
        self.conv = nn.Sequential(
            *([_convolution(inside, wide, 1)] if expansion > 1 else []),
            _convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, plus its input if both have the same shape."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _residual_blocks() -> list[nn.Module]:
    """Return the blocks of the seven stages in order."""
    plan = [(c, e, s if n == 0 else 1) for e, c, count, s in STAGES for n in range(count)]
    widths = pairwise((32, *(channels for channels, _, _ in plan)))
    return [InvertedResidual(i, o, stride, e) for (i, o), (_, e, stride) in zip(widths, plan, strict=True)]


class MobileNetFeatures(nn.Module):
    """MobileNetV2 without its classifier: 1280 numbers for each picture, averaged over all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(3, 32, 3, 2), *_residual_blocks(), _convolution(STAGES[-1][1], WIDTH, 1)
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MobileNetFeatures:
        """Build the network from a state dict in torchvision's names; the classifier's weights are left out.

        Raises:
            ModelError: a tensor is missing, unknown or of another shape.
        """
        network = cls()
        try:
            network.load_state_dict({k: v for k, v in state.items() if not k.startswith("classifier.")})
        except RuntimeError as error:
            raise ModelError(
                f"weights of MobileNetV2 do not fit: {error}", hint="use torchvision's weights of width 1"
            ) from error
        return network.eval().requires_grad_(False)

    def forward(self, pictures: Float[Tensor, "pictures 3 height width"]) -> Features:
        """Return the features of pictures in [-1, 1] of any size."""
        cells: Tensor = self.features(standardise(pictures, IMAGENET))  # [pictures, 1280, h, w]
        return cells.mean(dim=(2, 3))
