"""Makes the pictures that are not there yet, in an order in which every pause leaves a fair comparison."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.methods import ROWS, Studio, pixels_of
from benchmarks.quality.split import Photos
from stylescore.errors import ConfigError
from stylescore.images import save_png
from stylescore.storage.files import atomic


@dataclass(frozen=True)
class Job:
    """Some photos, by their numbers in the part, to be made in one run."""

    method: str
    style: str
    numbers: tuple[int, ...]


def plan(count: int, batch: int, styles: Sequence[str], methods: Sequence[str]) -> list[Job]:
    """Return all jobs, photos outermost: a photo has been through everything before the next one's turn."""
    batches = [tuple(range(first, min(first + batch, count))) for first in range(0, count, batch)]
    return [Job(method, style, numbers) for numbers in batches for style in styles for method in methods]


def shared(jobs: Sequence[Job], share: str) -> list[Job]:
    """Return part I of N of the jobs, for `share` written I/N with I from 1.

    Raises:
        ConfigError: it is not written so.
    """
    index, _, count = share.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"a share must be I/N with I from 1 to N, not {share!r}", hint="the whole is 1/1")
    return list(jobs[int(index) - 1 :: int(count)])


def path_of(folder: Path, method: str, style: str, number: int) -> Path:
    """Return where a picture lies."""
    return folder / method / style / f"{number:03d}.png"


def lacking(folder: Path, job: Job) -> Job:
    """Return the job without the pictures that exist."""
    missing = [n for n in job.numbers if not path_of(folder, job.method, job.style, n).is_file()]
    return replace(job, numbers=tuple(missing))


def make(folder: Path, studio: Studio, photos: Photos, job: Job) -> None:
    """Make a job's pictures and write each whole or not at all."""
    taken = list(job.numbers)
    some = Photos(tuple(photos.rows[n] for n in taken), tuple(photos.captions[n] for n in taken), photos.pixels[taken])
    path_of(folder, job.method, job.style, 0).parent.mkdir(parents=True, exist_ok=True)
    for number, picture in zip(taken, ROWS[job.method].make(studio, job.style, some), strict=True):
        save_png(picture, path_of(folder, job.method, job.style, number))


def work(folder: Path, studio: Studio, photos: Photos, jobs: Sequence[Job], minutes: float) -> Iterator[Job]:
    """Do the jobs one after another, yielding each that had something to do, until the time is over."""
    end = time.monotonic() + 60 * minutes
    for job in jobs:
        if time.monotonic() > end:
            return
        if (left := lacking(folder, job)).numbers:
            make(folder, studio, photos, left)
            yield left


def complete(folder: Path, count: int, styles: Sequence[str], methods: Sequence[str]) -> int:
    """Return how many of the first photos have been through every method and style."""
    for number in range(count):
        if not all(path_of(folder, method, style, number).is_file() for style in styles for method in methods):
            return number
    return count


def read_pictures(folder: Path, method: str, style: str, count: int) -> np.ndarray:
    """Return the first pictures of a method in a style, uint8."""
    pictures = []
    for number in range(count):
        with Image.open(path_of(folder, method, style, number)) as picture:
            pictures.append(pixels_of(picture))
    return np.stack(pictures)


def require_same(folder: Path, facts: dict[str, Any]) -> None:
    """Note what the pictures of a folder are made with, or raise `ConfigError` if they were made otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "made-with.json"
    if not path.is_file():
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in facts if kept.get(key) != facts[key]]
    if different:
        raise ConfigError(
            f"the pictures in {str(folder)!r} were made with another {different[0]}",
            hint="give another output folder, or delete these",
        )
