"""Stylizes many pictures: the next one is read and the last ones are written while the network computes."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from stylescore_apply.errors import OutputError, PictureError, StylescoreError
from stylescore_apply.images.exif import exif_for, has_place
from stylescore_apply.images.reading import Photo, read_photo
from stylescore_apply.images.writing import (
    DEFAULT_QUALITY,
    Format,
    check_quality,
    encode_picture,
    format_of,
    write_file,
)
from stylescore_apply.inputs import STANDARD, Job
from stylescore_apply.networks import Network
from stylescore_apply.stylizing import Pixels, Settings, is_cut_for_memory, stylize

LARGEST_INPUT = 2**29
"""Bytes of a picture on standard input."""
_AHEAD = 2
"""Pictures that are read ahead, and as many that wait to be written: each takes 36 MB at 12 megapixels."""
_PLACE_DROPPED = "the place where it was taken is left out; --keep-location keeps it"
_TILED = (
    "its network looks at the whole picture, so in tiles that fit into memory the result differs; a larger "
    "--memory-limit avoids that"
)


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How results are saved.

    Attributes:
        format: of the files, or `None` for what a file's ending means.
        quality: of JPEG, WebP and AVIF, 1 to 100.
        location: whether to keep where a photo was taken.
        overwrite: whether to make again what is done.
    """

    format: Format | None = None
    quality: int = DEFAULT_QUALITY
    location: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raise `ConfigError` for a quality out of range."""
        check_quality(self.quality)


@dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
        job: the input and its output.
        status: made, skipped because it was done, or failed.
        error: why it failed, or `None`.
        notes: sentences for the user.
        seconds: time of the network; of a video, time of everything.
        frames: pictures that were made.
    """

    job: Job
    status: Literal["made", "skipped", "failed"]
    error: StylescoreError | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    frames: int = 0


def stylize_pictures(network: Network, jobs: Iterable[Job], settings: Settings, saving: Saving) -> Iterator[Outcome]:
    """Stylize pictures, and yield what became of each in their order; a failure does not stop the others.

    Reading and writing run in threads. After an interrupt, files in progress are finished and no other is begun.
    """
    reader, writers = ThreadPoolExecutor(1), ThreadPoolExecutor(2)
    reading: deque[tuple[Job, Future[Photo] | None]] = deque()
    writing: deque[Future[Outcome]] = deque()
    waiting = iter(jobs)
    try:
        while _read_ahead(waiting, reading, reader, saving) or writing:
            if reading:
                writing.append(_stylize_next(reading.popleft(), network, settings, saving, writers))
            if len(writing) > _AHEAD or not reading:
                yield writing.popleft().result()
    finally:
        reader.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


def _read_ahead(
    waiting: Iterator[Job],
    reading: deque[tuple[Job, Future[Photo] | None]],
    reader: ThreadPoolExecutor,
    saving: Saving,
) -> bool:
    """Begin to read the next pictures; return whether there are any."""
    while len(reading) < _AHEAD and (job := next(waiting, None)) is not None:
        is_done = not saving.overwrite and job.is_done
        reading.append((job, None if is_done else reader.submit(_read, job)))
    return bool(reading)


def _read(job: Job) -> Photo:
    if job.source != STANDARD:
        return read_photo(job.source)
    content = sys.stdin.buffer.read(LARGEST_INPUT + 1)
    if len(content) > LARGEST_INPUT:
        raise PictureError(f"standard input has more than {LARGEST_INPUT:,} bytes", hint="give the file's name")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "picture")
        path.write_bytes(content)
        try:
            return read_photo(path)
        except PictureError as error:  # the user does not know that file
            shown = str(error).replace(repr(str(path)), "'standard input'")
            raise PictureError(shown, hint=error.hint) from error


def _stylize_next(
    item: tuple[Job, Future[Photo] | None],
    network: Network,
    settings: Settings,
    saving: Saving,
    writers: ThreadPoolExecutor,
) -> Future[Outcome]:
    """Stylize a picture that was read, and begin to write it."""
    job, future = item
    if future is None:
        return _settled(Outcome(job, "skipped"))
    try:
        photo = future.result()
        start = time.perf_counter()
        picture = stylize(network, np.asarray(photo.picture), settings)
    except StylescoreError as error:
        return _settled(Outcome(job, "failed", error))
    seconds = time.perf_counter() - start
    outcome = Outcome(job, "made", notes=_notes(network, photo, settings, saving), seconds=seconds, frames=1)
    return writers.submit(_write, outcome, picture, photo, saving)


def _settled(outcome: Outcome) -> Future[Outcome]:
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _notes(network: Network, photo: Photo, settings: Settings, saving: Saving) -> tuple[str, ...]:
    width, height = photo.picture.size
    is_inexact = is_cut_for_memory(network.facts, height, width, settings)
    is_dropped = not saving.location and has_place(photo.exif)
    return (*photo.notes, *((_PLACE_DROPPED,) if is_dropped else ()), *((_TILED,) if is_inexact else ()))


def _write(outcome: Outcome, pixels: Pixels, photo: Photo, saving: Saving) -> Outcome:
    target = outcome.job.target
    picture = Image.fromarray(pixels)
    if photo.alpha is not None:
        picture = Image.merge("RGBA", (*picture.split(), photo.alpha))
    chosen = saving.format or format_of(target) or "png"
    try:
        exif = exif_for(photo.exif, picture.size, keep_location=saving.location)
        content = encode_picture(picture, chosen, quality=saving.quality, exif=exif, profile=photo.profile)
        _deliver(content, target)
    except StylescoreError as error:
        return replace(outcome, status="failed", error=error, frames=0)
    whitened = photo.alpha is not None and chosen == "jpeg"
    return replace(
        outcome, notes=(*outcome.notes, *(("JPEG has no transparency: it became white",) if whitened else ()))
    )


def _deliver(content: bytes, target: Path) -> None:
    if target != STANDARD:
        write_file(content, target)
        return
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(
            f"standard output cannot be written: {error.strerror or error}", hint="send it to a file or a pipe"
        ) from error
