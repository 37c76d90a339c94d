"""Temporal smoothing: each frame is mixed with the last one, moved along the optical flow, where both show the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stylescore_apply.stylizing import Pixels
from stylescore_apply.video.library import require_cv2

Flow = NDArray[np.float32]
"""[height, width, 2]: where each pixel was in the frame before, in pixels to the right and down."""

_LONGEST_SIDE = 640
"""The flow is computed on frames of at most so many pixels and enlarged: motion is smooth."""
_SAME_WITHIN = 0.05
"""Difference of the frames in [0, 1], after the motion, at which the weight of the last frame has fallen to 1 / e."""


class Smoother:
    """Mixes stylized frames with their predecessors; holds the last frame and its picture.

    A frame's picture is (1 - w) * picture + w * (last result, moved), with w = smooth * exp(-(d / 0.05)^2) for the
    difference d of the frame and the last one after the motion: where something comes into sight, and at cuts, d is
    large and the picture stays as it is.
    """

    def __init__(self, smooth: float) -> None:
        self._cv2 = require_cv2()
        self._smooth = smooth
        self._estimate = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._last: tuple[Pixels, NDArray[np.float32]] | None = None

    def __call__(self, photo: Pixels, picture: Pixels) -> Pixels:
        """Return the smoothed picture of a frame, [height, width, 3] as the frame."""
        mixed = picture.astype(np.float32)
        if self._last is not None and self._last[0].shape == photo.shape:
            last_photo, last_picture = self._last
            flow = backward_flow(self._cv2, self._estimate, photo, last_photo)
            moved = move(self._cv2, last_photo.astype(np.float32), flow)
            weight = self._smooth * sameness(moved, photo)
            mixed += weight * (move(self._cv2, last_picture, flow) - mixed)
        self._last = photo, mixed
        return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)


def backward_flow(cv2: Any, estimate: Any, photo: Pixels, last: Pixels) -> Flow:
    """Return where each pixel of a frame was in the last one."""
    height, width = photo.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = max(16, round(width * scale)), max(16, round(height * scale))
    small = [
        cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for each in (photo, last)
    ]
    flow = estimate.calc(*small, None)
    enlarged: Flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR)
    enlarged *= np.array([width / size[0], height / size[1]], dtype=np.float32)
    return enlarged


def move(cv2: Any, picture: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Return a picture of the last frame, moved to where its parts are now."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: NDArray[np.float32] = cv2.remap(
        picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved


def sameness(moved: NDArray[np.float32], photo: Pixels) -> NDArray[np.float32]:
    """Return 1 where the moved last frame equals this one, less where it differs; [height, width, 1]."""
    difference = np.abs(moved - photo).mean(axis=-1, keepdims=True) / np.float32(255)
    same: NDArray[np.float32] = np.exp(-((difference / np.float32(_SAME_WITHIN)) ** 2))
    return same
