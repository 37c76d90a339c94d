"""A generator of at most two million parameters that is fast on a CPU and may be applied in overlapping tiles."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylescore.generators.layers import CELL, ChannelNorm, NoiseField, Photos, check_inputs, pad_to_cells

KERNEL = 5
"""Side of the blocks' depthwise filters, in cells."""
EXPANSION = 3
PIXELS = 3 * 2 * 2
"""Numbers that the last layers make for each position at half the resolution: the colours of four pixels."""
MASKS = 2 * 2
"""Numbers that tell how much of these four pixels of the photo is left out."""
REACH = 40
"""Pixels that the layers outside the blocks look to each side, at most."""


class MobileBlock(nn.Module):
    """A depthwise filter, then two 1 x 1 convolutions over more channels, beside a skip connection.

    Source: "A ConvNet for the 2020s", CVPR 2022, section 2, with a norm that sees one position alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.expand = nn.Conv2d(channels, EXPANSION * channels, 1)
        self.reduce = nn.Conv2d(EXPANSION * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return activations of the same shape."""
        changed: Tensor = self.reduce(F.gelu(self.expand(self.norm(self.filter(x)))))
        return x + changed


class Enlarge(nn.Module):
    """Enlarges by sub-pixel convolution: a 1 x 1 convolution makes the pixels of each position.

    Unlike repetition followed by convolutions, it can draw something else in every part of a cell, as an autoencoder's
    decoder does. It begins as repetition, which has no checkerboard.

    Source: "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network", CVPR 2016; the initial values after arXiv 1707.02937.
    """

    def __init__(self, inside: int, outside: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.pixels = nn.Conv2d(inside, outside * factor**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [n, outside, factor h, factor w]."""
        return F.pixel_shuffle(self.pixels(x), self.factor)

    def begin_as_repetition(self) -> None:
        """Let all pixels of a position begin with the same weights and without bias."""
        nn.init.zeros_(self.pixels.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            weight = self.pixels.weight
            weight.copy_(weight[:: self.factor**2].repeat_interleave(self.factor**2, dim=0))


class Mixing(nn.Module):
    """Joins features from below, enlarged, with those of a skip connection; a 3 x 3 convolution follows."""

    def __init__(self, below: int, skip: int) -> None:
        super().__init__()
        self.enlarge = Enlarge(below, skip, 2)
        self.join = nn.Conv2d(skip, skip, 1)
        self.filter = nn.Conv2d(skip, skip, 3, padding=1)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """Return features at the skip connection's resolution."""
        return F.gelu(self.filter(self.enlarge(below) + self.join(skip)))


class MobileGenerator(nn.Module):
    """A small U-shaped network: photo plus what it should change by, with noise joined at an eighth of the resolution.

    The change has two parts: one drawn cell by cell, as an autoencoder draws a latent, and one made by the upper half
    of the U from it and from the photo's own features. A mask says where the photo is left out, so that fine things of
    it need not be drawn once more to be removed.

    No layer runs at full resolution: the first convolution halves it, and the last one makes the four pixels of each
    position at half resolution. Norms stand in the blocks alone, and all numbers of channels but those of the picture
    are multiples of 16, the block of channels that onnxruntime's convolutions work on.

    Attributes:
        width: channels at half resolution; they double at each halving.
        blocks: at an eighth of the resolution.
        noise_channels: of the noise field; 0 takes none.
    """

    def __init__(self, width: int = 32, blocks: int = 8, noise_channels: int = 32) -> None:
        super().__init__()
        self.width, self.blocks, self.noise_channels = width, blocks, noise_channels
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(
            nn.Conv2d(inside, outside, 4, stride=2, padding=1) for inside, outside in pairwise([3, *widths])
        )
        self.noise = nn.Conv2d(noise_channels, widths[-1], 1) if noise_channels else None
        self.body = nn.ModuleList(MobileBlock(widths[-1]) for _ in range(blocks))
        self.up = nn.ModuleList(Mixing(below, skip) for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.cells = Enlarge(widths[-1], PIXELS, CELL // 2)
        self.last = nn.Conv2d(width + PIXELS, PIXELS + MASKS, 3, padding=1)
        self.apply(_initialise)
        nn.init.zeros_(self.last.weight)  # begins as the identity
        nn.init.zeros_(self.cells.pixels.weight)

    @property
    def context(self) -> int:
        """Pixels around a tile that decide its picture; with so many on each side, it equals the whole picture's."""
        return CELL * self.blocks * (KERNEL // 2) + REACH

    def weights_without_noise(self) -> dict[str, Tensor]:
        """Return the weights of the network without noise, in which nothing takes the place of what the noise adds."""
        return {name: values for name, values in self.state_dict().items() if not name.startswith("noise.")}

    def forward(self, photo: Photos, noise: NoiseField | None = None) -> Photos:
        """Return pictures of the photos' size, in [0, 1].

        In training mode they are not limited to [0, 1], so that the gradient can bring values back.

        Args:
            photo: in [0, 1], any size.
            noise: standard normal, one cell for 8 x 8 pixels; not read where `noise_channels` is 0.

        Raises:
            PictureError: the shapes do not fit.
        """
        check_inputs(photo, noise, self.noise_channels)
        padded = pad_to_cells(photo)
        change, mask = self._change(padded, noise)
        picture = (padded * (1 - mask) + change)[..., : photo.shape[-2], : photo.shape[-1]]
        return picture if self.training else picture.clamp(0, 1)

    def _change(self, photo: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is added to a photo whose sides are multiples of a cell, and how much of it is left out."""
        x, levels = photo * 2 - 1, list[Tensor]()
        for down in self.down:
            x = F.gelu(down(x))
            levels.append(x)
        if self.noise is not None and noise is not None:
            x = x + self.noise(noise)
        for block in self.body:
            x = block(x)
        drawn = self.cells(x)
        for up, skip in zip(self.up, reversed(levels[:-1]), strict=True):
            x = up(x, skip)
        last = self.last(torch.cat([x, drawn], dim=1))
        return F.pixel_shuffle(drawn + last[:, :PIXELS], 2), F.pixel_shuffle(last[:, PIXELS:], 2)


def _initialise(module: nn.Module) -> None:
    """Draw a convolution's weights so that activations keep their size; a block begins as the identity."""
    if isinstance(module, MobileBlock):
        nn.init.zeros_(module.reduce.weight)
    elif isinstance(module, Enlarge):
        module.begin_as_repetition()
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
