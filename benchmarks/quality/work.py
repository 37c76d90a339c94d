"""Makes the missing pictures in an order that allows a fair comparison after every interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.quality.methods import ROWS, Studio, to_pixels
from benchmarks.quality.split import Photos
from stylescore.errors import ConfigError
from stylescore.images import save_png
from stylescore_apply.storage.files import atomic


@dataclass(frozen=True)
class Job:
    """Photos of one run, by their indices in the part, with method and style."""

    method: str
    style: str
    numbers: tuple[int, ...]


def plan(count: int, batch: int, styles: Sequence[str], methods: Sequence[str]) -> list[Job]:
    """Return all jobs in order: every method and style of a batch of photos before the next batch."""
    batches = [tuple(range(first, min(first + batch, count))) for first in range(0, count, batch)]
    return [Job(method, style, numbers) for numbers in batches for style in styles for method in methods]


def select_share(jobs: Sequence[Job], share: str) -> list[Job]:
    """Return part I of N of the jobs, for `share` written I/N with I from 1.

    Raises:
        ConfigError: `share` is not of this form.
    """
    index, _, count = share.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--share must be I/N with I from 1 to N, not {share!r}", hint="for example --share 1/2")
    return list(jobs[int(index) - 1 :: int(count)])


def picture_path(folder: Path, method: str, style: str, number: int) -> Path:
    """Return the path of a picture."""
    return folder / method / style / f"{number:03d}.png"


def _without_existing(folder: Path, job: Job) -> Job:
    """Return the job without the pictures that exist already."""
    missing = [n for n in job.numbers if not picture_path(folder, job.method, job.style, n).is_file()]
    return replace(job, numbers=tuple(missing))


def _make_pictures(folder: Path, studio: Studio, photos: Photos, job: Job) -> None:
    """Make a job's pictures and write each file whole or not at all."""
    taken = list(job.numbers)
    some = Photos(tuple(photos.rows[n] for n in taken), tuple(photos.captions[n] for n in taken), photos.pixels[taken])
    picture_path(folder, job.method, job.style, 0).parent.mkdir(parents=True, exist_ok=True)
    for number, picture in zip(taken, ROWS[job.method].make(studio, job.style, some), strict=True):
        save_png(picture, picture_path(folder, job.method, job.style, number))


def run_jobs(folder: Path, studio: Studio, photos: Photos, jobs: Sequence[Job], minutes: float) -> Iterator[Job]:
    """Run the jobs in order until the time is over; yield each job that made pictures."""
    end = time.monotonic() + 60 * minutes
    for job in jobs:
        if time.monotonic() > end:
            return
        if (left := _without_existing(folder, job)).numbers:
            _make_pictures(folder, studio, photos, left)
            yield left


def count_complete(folder: Path, count: int, styles: Sequence[str], methods: Sequence[str]) -> int:
    """Return the number of first photos that have a picture by every method in every style."""
    for number in range(count):
        if not all(picture_path(folder, method, style, number).is_file() for style in styles for method in methods):
            return number
    return count


def read_pictures(folder: Path, method: str, style: str, count: int) -> np.ndarray:
    """Return the first pictures of a method in a style, uint8."""
    pictures = []
    for number in range(count):
        with Image.open(picture_path(folder, method, style, number)) as picture:
            pictures.append(to_pixels(picture))
    return np.stack(pictures)


def check_same_settings(folder: Path, facts: dict[str, Any]) -> None:
    """Save the settings of a folder's pictures; raise `ConfigError` if the folder has pictures with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "made-with.json"
    if not path.is_file():
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    saved = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in facts if saved.get(key) != facts[key]]
    if different:
        raise ConfigError(
            f"the pictures in {str(folder)!r} were made with another {different[0]}",
            hint="choose another output folder, or delete these pictures",
        )
