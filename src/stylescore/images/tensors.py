"""Converts PIL pictures to the tensors that models take, and back."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from stylescore.errors import PictureError, StylescoreError
from stylescore.images.sizes import fitted_size as fitted_size
from stylescore.images.sizes import resize


def to_tensor(picture: Image.Image, size: tuple[int, int]) -> Float[Tensor, "1 3 height width"]:
    """Resize a picture and convert it to a tensor.

    Args:
        picture: any mode that PIL turns into RGB; alpha is dropped.
        size: width and height of the result, both at least 1.

    Returns:
        float32 of shape [1, 3, h, w] on the CPU, in [-1, 1].

    Raises:
        PictureError: `size` has a side below 1.
    """
    if min(size) < 1:
        raise PictureError(f"a picture must have at least 1 pixel on each side, got size {size!r}")
    pixels = np.array(resize(picture.convert("RGB"), size), dtype=np.float32)  # [h, w, 3]
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous() / 127.5 - 1


def mask_tensor(mask: Image.Image | None, size: tuple[int, int]) -> Float[Tensor, "1 1 height width"]:
    """Average a mask to a map of weights.

    Args:
        mask: "L", white for 1; `None` for ones.
        size: width and height of the map, both at least 1.

    Returns:
        float32 of shape [1, 1, h, w] on the CPU, in [0, 1].
    """
    if mask is None:
        return torch.ones(1, 1, size[1], size[0])
    weights = np.array(mask.convert("F").resize(size, Image.Resampling.BOX), dtype=np.float32)  # [h, w]
    return (torch.from_numpy(weights)[None, None] / 255).clamp(0, 1)


def to_picture(tensor: Float[Tensor, ...]) -> Image.Image:
    """Convert a tensor to a picture; the inverse of `to_tensor` if the size is unchanged.

    Args:
        tensor: [3, h, w] or [1, 3, h, w] of any float type on any device; clamped to [-1, 1].

    Returns:
        An "RGB" picture of w x h.

    Raises:
        PictureError: the tensor has another shape.
        StylescoreError: it holds NaN or infinity.
    """
    _check_shape(tuple(tensor.shape))
    values = tensor.detach().reshape(tensor.shape[-3:]).to("cpu", torch.float32)
    if not bool(values.isfinite().all()):
        raise StylescoreError(
            "a picture cannot hold NaN or infinity, got a tensor with such values",
            hint="decode in float32; some models overflow in float16",
        )
    pixels = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)  # [3, h, w]
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in {3, 4} or shape[-3] != 3 or (len(shape) == 4 and shape[0] != 1) or 0 in shape:
        raise PictureError(
            f"a picture's tensor must be [3, h, w] or [1, 3, h, w], got {list(shape)!r}",
            hint="index a batch first",
        )
