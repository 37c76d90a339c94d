"""Noise that moves with what a video shows, so that strokes stay on things instead of on the screen."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stylescore_apply.networks import Facts
from stylescore_apply.noise import Noise, noise_at
from stylescore_apply.stylizing import Pixels
from stylescore_apply.video.flow import backward_flow, move, sameness
from stylescore_apply.video.library import require_cv2

NoiseMotion = Literal["fixed", "moved"]
MOTIONS: tuple[NoiseMotion, ...] = get_args(NoiseMotion)
_SAME = 0.5
"""Where frames agree less after the motion, something else is shown and its noise is that of its place."""


class MovingNoise:
    """Draws the noise of each frame; holds the last frame, and where in the endless noise field its cells lie.

    A cell's value is that of the field at the place p_t(x) = p_{t-1}(x + flow(x)), rounded to a cell; p_0(x) = x. So
    motion by less than a cell adds up, a pan moves the field as it is, and each value is one of the field's.
    """

    def __init__(self, facts: Facts, seed: int) -> None:
        self._cv2 = require_cv2()
        self._facts, self._seed = facts, seed
        self._estimate = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last: tuple[Pixels, NDArray[np.float32]] | None = None

    def __call__(self, photo: Pixels) -> Noise:
        """Return the noise of the next frame, [1, channels, rows, columns]."""
        rows, columns = (-(-length // self._facts.noise_scale) for length in photo.shape[:2])
        places = _grid(rows, columns)
        if self._last is not None and self._last[0].shape == photo.shape:
            places = self._move(photo, *self._last, places)
        self._last = photo, places
        column, row = np.moveaxis(np.rint(places).astype(np.int64), -1, 0)
        return noise_at(self._seed, self._facts.noise_channels, row, column)

    def _move(
        self, photo: Pixels, last: Pixels, before: NDArray[np.float32], own: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the places in the field of a frame's cells, given those of the last frame's."""
        size = own.shape[1], own.shape[0]
        flow = backward_flow(self._cv2, self._estimate, photo, last)
        same = sameness(move(self._cv2, last.astype(np.float32), flow), photo)[..., 0]
        same, flow = (self._cv2.resize(part, size, interpolation=self._cv2.INTER_AREA) for part in (same, flow))
        flow = flow / np.float32(self._facts.noise_scale)
        source = own + flow
        beyond = source - np.clip(source, 0, np.array(size, np.float32) - 1)  # the field goes on outside the frame
        moved = move(self._cv2, before, flow) + beyond
        return np.where(same[..., None] < _SAME, own, moved)


def _grid(rows: int, columns: int) -> NDArray[np.float32]:
    """Return column and row of every cell, [rows, columns, 2]."""
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(np.float32)
