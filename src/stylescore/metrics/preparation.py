"""Brings pictures in [-1, 1] to the sizes and scales that networks were trained on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the channels, for pictures in [0, 1]."""
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BT601 = (0.299, 0.587, 0.114)

Pictures = Float[Tensor, "batch 3 _height _width"]


def standardise(pictures: Pictures, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> Pictures:
    """Return pictures in [-1, 1] in units of a network's training data, `IMAGENET` or `CLIP`."""
    mean, std = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in scale)
    return ((pictures + 1) / 2 - mean) / std


def centre_square(pictures: Pictures, side: int) -> Pictures:
    """Resize the short side to `side`, bicubically with a low-pass filter as Pillow does, and crop the middle."""
    height, width = pictures.shape[2:]
    short = min(height, width)
    size = (side * height // short, side * width // short)
    resized = functional.interpolate(pictures, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return resized.clamp(-1, 1)[:, :, top : top + side, left : left + side]


def squash(pictures: Pictures, side: int) -> Pictures:
    """Resize to `side` x `side`, whatever the aspect ratio, bicubically with a low-pass filter."""
    resized = functional.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


def grey(pictures: Pictures) -> Pictures:
    """Return pictures whose three channels are their luma (ITU-R BT.601)."""
    weights = torch.tensor(BT601, dtype=pictures.dtype, device=pictures.device).view(1, 3, 1, 1)
    return (pictures * weights).sum(dim=1, keepdim=True).expand_as(pictures)


def hed_pixels(pictures: Pictures) -> Pictures:
    """Return pictures in [-1, 1] as HED's network was trained on them: levels, blue first, minus their mean."""
    mean = pictures.new_tensor((104.00699, 116.66877, 122.67892)).view(1, 3, 1, 1)
    return ((pictures + 1) * 127.5).flip(1) - mean
