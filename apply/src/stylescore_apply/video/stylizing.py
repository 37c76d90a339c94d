"""Stylizes a video, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylescore_apply.errors import ConfigError, OutputError, PictureError
from stylescore_apply.networks import Network
from stylescore_apply.stylizing import Pixels, Settings, stylize
from stylescore_apply.video.flow import Smoother
from stylescore_apply.video.noise import MovingNoise, NoiseMotion
from stylescore_apply.video.reading import Frame, VideoReader, open_video
from stylescore_apply.video.writing import DEFAULT_CRF, VideoWriter, check_target, create_video

UNFINISHED = ".unfinished"
"""Stands before the ending of a video that is being written, or was cut off."""


def unfinished_path(target: Path) -> Path:
    """Return the name of a video until it is complete: a cut-off run leaves it, and it can be played."""
    return target.with_name(f"{target.stem}{UNFINISHED}{target.suffix}")


def stylize_video(
    network: Network,
    source: Path,
    target: Path,
    settings: Settings,
    *,
    smooth: float = 0.0,
    noise: NoiseMotion = "fixed",
    crf: int = DEFAULT_CRF,
) -> Iterator[tuple[int, int | None]]:
    """Stylize a video, and yield after each frame how many are done and how many there are, as far as known.

    The frames keep their times, the sound is copied, and rotated videos are written upright. The file has its name only
    when it is complete; until then, and if the run is cut off, `unfinished_path` can be played.

    Args:
        network: the network.
        source: the video's file.
        target: .mp4 or .mkv; its folder is made.
        settings: of every frame.
        smooth: 0 to 1, weight of the previous frame, moved along the optical flow.
        noise: whether the noise field is fixed, one for all frames, or moved along the optical flow.
        crf: quality of H.264, 0 to 51.

    Raises:
        ConfigError: a library is missing, a number is out of range, or the file cannot hold the sound.
        PictureError: the video cannot be read.
        OutputError: the file cannot be written.
    """
    smoother = Smoother(smooth) if smooth else None
    is_moved = noise == "moved" and network.facts.noise_channels > 0
    moving = MovingNoise(network.facts, settings.seed) if is_moved else None

    def paint(photo: Pixels) -> Pixels:
        picture = stylize(network, photo, settings, None if moving is None else moving(photo))
        return picture if smoother is None else smoother(photo, picture)

    with open_video(source) as video:
        check_target(target, video)
        _make_folder(target.parent)
        unfinished = unfinished_path(target)
        yield from _write(paint, video, unfinished, crf)
        with suppress(OSError):
            unfinished.replace(target)
            return
    raise OutputError(f"{str(unfinished)!r} cannot be renamed to {str(target)!r}", hint="rename it yourself")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {str(folder)!r} cannot be made: {error.strerror or error}", hint="choose another --out"
        ) from error


def _write(
    paint: Callable[[Pixels], Pixels], video: VideoReader, path: Path, crf: int
) -> Iterator[tuple[int, int | None]]:
    """Write the stylized frames and the sound; sound before the first frame waits for it."""
    waiting: list[Any] = []
    writer: VideoWriter | None = None
    done = 0
    with ExitStack() as stack:
        for item in video.items():
            if not isinstance(item, Frame):
                waiting.append(item)
            else:
                pixels = paint(item.pixels)
                if writer is None:
                    writer = stack.enter_context(create_video(path, video, pixels, crf))
                writer.write(replace(item, pixels=pixels))
                done += 1
                yield done, video.frame_count
            if writer is not None:
                while waiting:
                    writer.copy(waiting.pop(0))
    if writer is None:
        raise PictureError(f"the video {str(video.path)!r} has no frames", hint="try to play it")


def check_smooth(smooth: float) -> float:
    """Return a weight of the previous frame.

    Raises:
        ConfigError: it is out of range.
    """
    if not 0 <= smooth < 1:
        raise ConfigError(f"--smooth must be at least 0 and less than 1, not {smooth}", hint="0.5 is a good start")
    return smooth


def describe_video(source: Path) -> tuple[str, ...]:
    """Return what a user should know of a video before it is stylized.

    Raises:
        ConfigError: PyAV is not installed.
        PictureError: the video cannot be read.
    """
    with open_video(source) as video:
        next((item for item in video.items() if isinstance(item, Frame)), None)
        notes = []
        if video.colours.is_hdr:
            notes.append("high dynamic range: the video's flag is kept, but its colours get 8 bits and may show bands")
        if video.quarter_turns:
            notes.append("a rotated video: it is written upright")
        if video.left_out:
            notes.append(f"streams that are not copied: {', '.join(video.left_out)}")
    return tuple(notes)
