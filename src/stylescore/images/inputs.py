"""Photos as programs have them: paths, PIL images, arrays and tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylescore.errors import PictureError
from stylescore_apply.images.reading import Photo, photo_of, read_photo

IN_MEMORY = Path("image")
"""What stands for the path of a photo that was not read from a file."""
_HINT = "give a path, a PIL image, an array [height, width, 3] or a tensor [3, height, width]"


def as_photos(value: Any) -> list[Photo]:
    """Return photos from one that a program has, or from a list or tuple of them; see `as_photo`.

    Raises:
        PictureError: there is none, or one that cannot be used.
    """
    photos = [as_photo(each) for each in (value if isinstance(value, list | tuple) else [value])]
    if not photos:
        raise PictureError("at least one photo is needed, not an empty list", hint="stylize(['a.jpg'], style)")
    return photos


def as_photo(value: Any) -> Photo:
    """Return a photo from what a program has.

    Args:
        value: a path; a `Photo`; a PIL image, turned as its EXIF data say; an array [height, width], [height, width,
            1, 3 or 4]; or a tensor [3, height, width], also with 1 or 4 channels or a batch axis of 1. Numbers are
            uint8, or floats in [0, 1], or truth values, as masks have them; colours are sRGB.

    Raises:
        PictureError: it is none of these, or cannot be read.
    """
    if isinstance(value, Photo):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return read_photo(value)
    if isinstance(value, Image.Image):
        return _from_image(value)
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        return _from_image(_image_of_array(_channels_last(_numbers(value))))
    if isinstance(value, np.ndarray):
        return _from_image(_image_of_array(value))
    raise PictureError(
        f"a photo must be a path, an image, an array or a tensor, not {type(value).__name__}",
        hint=f"{_HINT}; of several photos, a list",
    )


def _from_image(image: Image.Image) -> Photo:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:  # of a file that is damaged or closed, as PIL reads it late
        raise PictureError(f"the PIL image cannot be read: {error}", hint="open it again, or give its path") from error
    return photo_of(image, IN_MEMORY)


def _numbers(tensor: Any) -> np.ndarray:
    """Return a tensor as an array; numpy has no bfloat16."""
    try:
        values = tensor.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
        numbers: np.ndarray = values.numpy()
    except (RuntimeError, TypeError) as error:
        raise PictureError(f"the numbers of a tensor cannot be read: {error}", hint="give a dense tensor") from error
    return numbers


def _channels_last(values: np.ndarray) -> np.ndarray:
    """Return a tensor's numbers, [1, c, h, w] or [c, h, w], as [h, w, c]."""
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim != 3 or len(values) not in (1, 3, 4):
        raise PictureError(
            f"a tensor must have the shape [3, height, width], not {list(values.shape)}", hint="give photos as a list"
        )
    return np.moveaxis(values, 0, -1)


def _image_of_array(values: np.ndarray) -> Image.Image:
    """Return numbers [h, w] or [h, w, c] as an image."""
    flat = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if flat.ndim not in (2, 3) or (flat.ndim == 3 and flat.shape[-1] not in (3, 4)):
        raise PictureError(f"an array must have the shape [height, width, 3], not {list(values.shape)}", hint=_HINT)
    return Image.fromarray(np.ascontiguousarray(_eight_bits(flat)))


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Return uint8 numbers as they are, and floats in [0, 1] and truth values as uint8."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(values.dtype, np.floating):
        raise PictureError(f"an array must hold uint8 or floats, not {values.dtype}", hint="convert it to uint8")
    low, high = (float(limit(values, initial=0.0)) for limit in (np.min, np.max))
    if not (low >= 0 and high <= 1):
        raise PictureError(
            f"floats of a photo must be between 0 and 1, not {low:g} to {high:g}",
            hint="divide by 255, or bring [-1, 1] to [0, 1]",
        )
    return np.asarray(np.rint(values.astype(np.float64) * 255), dtype=np.uint8)
