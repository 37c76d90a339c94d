"""The 43 MiB ResNet of the unpaired-translation literature, the generator that the paper's figures point to."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylescore.generators.layers import CELL, NoiseField, Photos, check_inputs, pad_to_cells


class BlurDown(nn.Module):
    """Halves the resolution after a binomial blur of 3 x 3, with mirrored borders."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(row, row).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, c, h / 2, w / 2]."""
        bordered = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(bordered, self.kernel, stride=2, groups=len(self.kernel))


class BlurUp(nn.Module):
    """Doubles the resolution with the taps 1, 3, 3, 1, which is linear interpolation."""

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, c, 2 h, 2 w]."""
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _stage(inside: int, outside: int, kernel: int, mirrored: bool) -> list[nn.Module]:
    """Return a convolution with bias, an instance norm without weights, and a ReLU."""
    mode: Literal["reflect", "zeros"] = "reflect" if mirrored else "zeros"
    convolution = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, padding_mode=mode)
    return [convolution, nn.InstanceNorm2d(outside), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        second = _stage(width, width, 3, mirrored=True)[:2]
        self.layers = nn.Sequential(*_stage(width, width, 3, mirrored=True), *second)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of the same shape."""
        changed: Tensor = self.layers(x)
        return x + changed


class ResnetGenerator(nn.Module):
    """Nine residual blocks at a quarter of the resolution; 11,378,179 parameters without noise.

    Its instance norms see the whole picture: pictures of any size, but not tiles of one.

    Attributes:
        noise_channels: of the noise field, which is enlarged to the photo's size as further input channels; 0 takes
            none, the form of the literature.
    """

    def __init__(self, width: int = 64, blocks: int = 9, noise_channels: int = 0) -> None:
        super().__init__()
        self.noise_channels = noise_channels
        self.layers = nn.Sequential(
            *_stage(3 + noise_channels, width, 7, mirrored=True),
            *_stage(width, 2 * width, 3, mirrored=False),
            BlurDown(2 * width),
            *_stage(2 * width, 4 * width, 3, mirrored=False),
            BlurDown(4 * width),
            *(ResidualBlock(4 * width) for _ in range(blocks)),
            BlurUp(),
            *_stage(4 * width, 2 * width, 3, mirrored=False),
            BlurUp(),
            *_stage(2 * width, width, 3, mirrored=False),
            nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )
        self.apply(_initialise)

    @property
    def context(self) -> None:
        """No number of surrounding pixels makes a tile equal to its part of the whole picture."""
        return

    def weights_without_noise(self) -> dict[str, Tensor]:
        """Return the weights of the network without noise that does what this one does where all noise is 0."""
        first = "layers.0.weight"
        return {name: values[:, :3] if name == first else values for name, values in self.state_dict().items()}

    def forward(self, photo: Photos, noise: NoiseField | None = None) -> Photos:
        """Return pictures in [0, 1] of the photos' size.

        Args:
            photo: in [0, 1], any size.
            noise: standard normal, one cell for 8 x 8 pixels; not read where `noise_channels` is 0.

        Raises:
            PictureError: the shapes do not fit.
        """
        check_inputs(photo, noise, self.noise_channels)
        x = pad_to_cells(photo) * 2 - 1
        if noise is not None and self.noise_channels:
            x = torch.cat([x, F.interpolate(noise, scale_factor=float(CELL), mode="nearest")], dim=1)
        picture: Tensor = self.layers(x)
        return ((picture + 1) / 2)[..., : photo.shape[-2], : photo.shape[-1]]


def _initialise(module: nn.Module) -> None:
    """Draw a convolution's weights with standard deviation 0.02, as this family of generators does."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]
