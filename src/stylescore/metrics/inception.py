"""Inception v3, whose 2048 averages are the features of FID and ArtFID.

Source: "Rethinking the Inception Architecture for Computer Vision", CVPR 2016. FID's network is the TensorFlow release
of 2015 as everybody uses it in PyTorch, which differs from the later one in two respects: average pooling leaves the
border out of the mean, and the last block takes the maximum instead. ArtFID's ("ArtFID: Quantitative Evaluation of
Neural Style Transfer", GCPR 2022) is the later one, trained on artworks. The layers have torchvision's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stylescore.errors import ModelError, PictureError
from stylescore.metrics.features import Features

WIDTH = 2048
SMALLEST_SIDE = 75
"""Shortest side in pixels that every layer accepts."""
FID_SIDE = 299

Pictures = Float[Tensor, "pictures 3 _height _width"]
Activation = Float[Tensor, "pictures _channels _height _width"]
Pool = Callable[[Activation], Activation]


class _Convolution(nn.Module):
    """A convolution, a batch norm and a ReLU."""

    def __init__(self, inside: int, outside: int, kernel: Any, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Activation) -> Activation:
        y: Tensor = self.bn(self.conv(x))
        return y.relu()


class _Block(nn.Module):
    """Several branches over one input, whose outputs are concatenated.

    A branch is a sequence of layer names; a name in brackets is two layers side by side. `layers` maps the names to
    channels, kernel and padding; `pool` comes before the last branch, and is itself one if that has no layers.
    """

    def __init__(
        self,
        inside: int,
        branches: Sequence[Sequence[str | tuple[str, str]]],
        layers: Mapping[str, tuple[int, Any, Any]],
        pool: Pool,
        strided: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.branches, self.pool = branches, pool
        for branch in branches:
            self._add(inside, branch, layers, strided)

    def _add(
        self, inside: int, branch: Sequence[Any], layers: Mapping[str, tuple[int, Any, Any]], strided: Sequence[str]
    ) -> None:
        for step in branch:
            names = (step,) if isinstance(step, str) else step
            for name in names:
                outside, kernel, padding = layers[name]
                self.add_module(name, _Convolution(inside, outside, kernel, 2 if name in strided else 1, padding))
            inside = layers[names[0]][0]

    def forward(self, x: Activation) -> Activation:
        inputs = [x] * (len(self.branches) - 1) + [self.pool(x)]
        return torch.cat([self._run(branch, y) for branch, y in zip(self.branches, inputs, strict=True)], dim=1)

    def _run(self, branch: Sequence[Any], x: Activation) -> Activation:
        for step in branch:
            names = (step,) if isinstance(step, str) else step
            x = torch.cat([getattr(self, name)(x) for name in names], dim=1)
        return x


def _block_a(inside: int, pooled: int, pool: Pool) -> _Block:
    layers = {
        "branch1x1": (64, 1, 0),
        "branch5x5_1": (48, 1, 0),
        "branch5x5_2": (64, 5, 2),
        "branch3x3dbl_1": (64, 1, 0),
        "branch3x3dbl_2": (96, 3, 1),
        "branch3x3dbl_3": (96, 3, 1),
        "branch_pool": (pooled, 1, 0),
    }
    double = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
    return _Block(inside, (("branch1x1",), ("branch5x5_1", "branch5x5_2"), double, ("branch_pool",)), layers, pool)


def _block_b(inside: int, pool: Pool) -> _Block:
    layers = {
        "branch3x3": (384, 3, 0),
        "branch3x3dbl_1": (64, 1, 0),
        "branch3x3dbl_2": (96, 3, 1),
        "branch3x3dbl_3": (96, 3, 0),
    }
    branches = (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"), ())
    return _Block(inside, branches, layers, pool, strided=("branch3x3", "branch3x3dbl_3"))


def _block_c(inside: int, narrow: int, pool: Pool) -> _Block:
    row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    layers = {
        "branch1x1": (192, 1, 0),
        "branch7x7_1": (narrow, 1, 0),
        "branch7x7_2": (narrow, *row),
        "branch7x7_3": (192, *column),
        "branch7x7dbl_1": (narrow, 1, 0),
        "branch7x7dbl_2": (narrow, *column),
        "branch7x7dbl_3": (narrow, *row),
        "branch7x7dbl_4": (narrow, *column),
        "branch7x7dbl_5": (192, *row),
        "branch_pool": (192, 1, 0),
    }
    single, double = (tuple(name for name in layers if name.startswith(kind)) for kind in ("branch7x7_", "branch7x7d"))
    return _Block(inside, (("branch1x1",), single, double, ("branch_pool",)), layers, pool)


def _block_d(inside: int, pool: Pool) -> _Block:
    layers = {
        "branch3x3_1": (192, 1, 0),
        "branch3x3_2": (320, 3, 0),
        "branch7x7x3_1": (192, 1, 0),
        "branch7x7x3_2": (192, (1, 7), (0, 3)),
        "branch7x7x3_3": (192, (7, 1), (3, 0)),
        "branch7x7x3_4": (192, 3, 0),
    }
    single, triple = (tuple(name for name in layers if name.startswith(kind)) for kind in ("branch3", "branch7"))
    return _Block(inside, (single, triple, ()), layers, pool, strided=("branch3x3_2", "branch7x7x3_4"))


def _block_e(inside: int, pool: Pool) -> _Block:
    row, column = (384, (1, 3), (0, 1)), (384, (3, 1), (1, 0))
    layers = {
        "branch1x1": (320, 1, 0),
        "branch3x3_1": (384, 1, 0),
        "branch3x3_2a": row,
        "branch3x3_2b": column,
        "branch3x3dbl_1": (448, 1, 0),
        "branch3x3dbl_2": (384, 3, 1),
        "branch3x3dbl_3a": row,
        "branch3x3dbl_3b": column,
        "branch_pool": (192, 1, 0),
    }
    single = ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b"))
    double = ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b"))
    return _Block(inside, (("branch1x1",), single, double, ("branch_pool",)), layers, pool)


class Inception(nn.Module):
    """Inception v3 up to its average pooling: 2048 numbers for each picture.

    Attributes:
        of_2015: whether it is the network of FID instead of the later one.
    """

    def __init__(self, *, of_2015: bool) -> None:
        super().__init__()
        self.of_2015 = of_2015
        mean = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=not of_2015)
        last = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1) if of_2015 else mean
        halve = partial(functional.max_pool2d, kernel_size=3, stride=2)
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, 1, 1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        for name, inside, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64)):
            self.add_module(f"Mixed_5{name}", _block_a(inside, pooled, mean))
        self.Mixed_6a = _block_b(288, halve)
        for name, narrow in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
            self.add_module(f"Mixed_6{name}", _block_c(768, narrow, mean))
        self.Mixed_7a = _block_d(768, halve)
        self.Mixed_7b = _block_e(1280, mean)
        self.Mixed_7c = _block_e(2048, last)

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, of_2015: bool) -> Inception:
        """Build the network from weights in torchvision's names; those of classifiers are left out.

        Raises:
            ModelError: a tensor is missing or has another shape.
        """
        network = cls(of_2015=of_2015)
        own = network.state_dict()
        counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
        missing = sorted(set(own) - set(state) - set(counters))
        if missing:
            hint = "use the weights of FID" if of_2015 else "use the weights of ArtFID"
            raise ModelError(f"weights of Inception v3 lack {missing[0]!r}", hint=hint)
        try:
            network.load_state_dict({name: state.get(name, own[name]) for name in own})
        except RuntimeError as error:
            raise ModelError(f"weights of Inception v3 do not fit: {error}", hint="use torchvision's names") from error
        return network.eval().requires_grad_(False)

    def forward(self, pictures: Pictures) -> Features:
        """Return the features of pictures in [-1, 1]; every network gets them as its own evaluation does.

        FID's receives them resized to 299 x 299, bilinearly and without a low-pass filter, in [-1, 1]; ArtFID's at
        their own size, at least 75 pixels, in [0, 1].

        Raises:
            PictureError: a picture is too small for ArtFID's.
        """
        if not self.of_2015 and min(pictures.shape[2:]) < SMALLEST_SIDE:
            raise PictureError(
                f"Inception v3 needs pictures of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, "
                f"got {pictures.shape[2]} x {pictures.shape[3]}"
            )
        x = resize_for_fid(pictures) if self.of_2015 else (pictures + 1) / 2
        for layer in self.children():
            x = layer(x)
        return x.mean(dim=(2, 3))


def resize_for_fid(pictures: Pictures) -> Pictures:
    """Resize pictures to 299 x 299 as pytorch-fid does."""
    return functional.interpolate(pictures, size=(FID_SIDE, FID_SIDE), mode="bilinear", align_corners=False)
