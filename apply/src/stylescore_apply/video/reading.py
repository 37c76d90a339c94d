"""Reads a video: its frames upright as RGB, their times, and the packets of its sound as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stylescore_apply.errors import PictureError
from stylescore_apply.stylizing import Pixels
from stylescore_apply.video.library import reading_errors, require_av

MAX_PIXELS = 50_000_000
"""Largest number of pixels of a frame, more than 8K."""
UNSPECIFIED = 2
"""What the codes of a video's colours say if they say nothing."""
BT709, BT601 = 1, 6
"""Codes of the two usual conversions between RGB and the colours that videos store."""
HD_HEIGHT = 720
"""From this height on, players take a video without codes as BT.709."""
HDR_TRANSFERS = (16, 18)
"""Codes of the brightness curves of high dynamic range: PQ and HLG."""
_QUARTER_TURNS = {0: 0, 90: 1, 180: 2, 270: 3}


@dataclass(frozen=True)
class Colours:
    """How a video's numbers mean colours, as codes of ITU-T H.273.

    Attributes:
        primaries: of red, green and blue.
        transfer: brightness curve.
        matrix: conversion between RGB and what is stored; always known, guessed from the height if not stated.
    """

    primaries: int
    transfer: int
    matrix: int

    @property
    def is_hdr(self) -> bool:
        """Whether the video has high dynamic range."""
        return self.transfer in HDR_TRANSFERS


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        pixels: upright.
        time: when it is shown, in units of the video's time base; `None` if the file does not say.
        duration: how long it is shown, in the same units; 0 if unknown.
    """

    pixels: Pixels
    time: int | None
    duration: int


class VideoReader:
    """An open video.

    Attributes:
        path: its file.
        stream: PyAV's video stream.
        sound: PyAV's streams of sound.
        colours: what its numbers mean.
        quarter_turns: how often its frames are turned by 90 degrees against the clock to stand upright.
        left_out: kinds of streams that are not copied.
    """

    def __init__(self, path: Path, container: Any) -> None:
        self.path, self._container = path, container
        if not container.streams.video:
            raise PictureError(f"{str(path)!r} has no pictures, only sound", hint="name a video")
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.sound = tuple(container.streams.audio)
        others = {stream.type for stream in container.streams} - {"video", "audio"}
        self.left_out = sorted(others | ({"video"} if len(container.streams.video) > 1 else set()))
        self.quarter_turns, self.colours = 0, Colours(UNSPECIFIED, UNSPECIFIED, UNSPECIFIED)
        self._shape: tuple[int, int] | None = None
        self._check_size()

    def _check_size(self) -> None:
        width, height = self.stream.width, self.stream.height
        if width * height > MAX_PIXELS:
            raise PictureError(
                f"the frames of {str(self.path)!r} have {width} x {height} pixels; at most {MAX_PIXELS:,} are allowed",
                hint="scale it down first",
            )

    @property
    def frame_count(self) -> int | None:
        """How many frames the video has, as far as its file says."""
        if self.stream.frames:
            return int(self.stream.frames)
        length = self.stream.duration and self.stream.duration * self.stream.time_base
        seconds = float(length or (self._container.duration or 0) / 1e6)
        return round(seconds * float(self.stream.average_rate or 0)) or None

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of an upright pixel divided by its height."""
        ratio = Fraction(self.stream.sample_aspect_ratio or 1)
        return 1 / ratio if self.quarter_turns % 2 else ratio

    def items(self) -> Iterator[Frame | Any]:
        """Yield frames, and packets of sound, in the order of the file.

        Raises:
            PictureError: the file is damaged, or its frames change their size.
        """
        with reading_errors(self.path):
            for packet in self._container.demux(self.stream, *self.sound):
                if packet.stream.type == "audio":
                    if packet.dts is not None:  # the last packet of a stream is empty
                        yield packet
                else:
                    yield from (self._frame(each) for each in packet.decode())

    def _frame(self, frame: Any) -> Frame:
        shape = (frame.height, frame.width)
        if self._shape is None:
            self._shape = shape
            self.quarter_turns = _QUARTER_TURNS.get(int(frame.rotation) % 360, 0)
            self.colours = _colours(frame)
        if shape != self._shape:
            raise PictureError(
                f"the frames of {str(self.path)!r} change their size from {self._shape} to {shape}",
                hint="convert it to one size first",
            )
        plain = frame.to_ndarray(format="rgb24", src_colorspace=self.colours.matrix)
        pixels = np.ascontiguousarray(np.rot90(plain, self.quarter_turns))
        return Frame(pixels, frame.pts, int(frame.duration or 0))


def _colours(frame: Any) -> Colours:
    """Return the codes of a frame; most videos do not state the matrix."""
    stated = int(frame.colorspace)
    guess = BT709 if min(frame.height, frame.width) >= HD_HEIGHT else BT601
    known = stated if stated not in (0, UNSPECIFIED) else guess
    return Colours(int(frame.color_primaries), int(frame.color_trc), known)


@contextmanager
def open_video(path: Path) -> Iterator[VideoReader]:
    """Open a video.

    Raises:
        ConfigError: PyAV is not installed.
        PictureError: there is no such file, it is not a video, or too large.
    """
    av = require_av()
    with reading_errors(path):
        container = av.open(str(path))
    with container:
        yield VideoReader(path, container)
