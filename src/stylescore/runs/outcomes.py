"""What became of each photo of a call: made, found finished, or failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylescore.errors import InputError, MemoryLimitError, NonFiniteError, StylescoreError
from stylescore.images import read_size
from stylescore.runs.job import COMMAND, PictureFolder, StylizeSettings, Task
from stylescore.runs.record import read_record
from stylescore.runs.runner import SavedResult

Status = Literal["made", "finished before", "failed"]
OF_ONE_PHOTO = (NonFiniteError, MemoryLimitError)
"""Failures of a run after which the other photos of a call are still made."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one photo.

    Attributes:
        photo: path of the photo, as it was given.
        status: what happened.
        folder: of its run, if it has one.
        settings: of its run, if it has one.
        size: width and height of its picture.
        error: why it failed.
    """

    photo: Path
    status: Status
    folder: PictureFolder | None = None
    settings: StylizeSettings | None = None
    size: tuple[int, int] | None = None
    error: StylescoreError | None = None


class BatchError(StylescoreError):
    """Some photos of a call could not be made; the others were."""


def made(saved: SavedResult) -> Outcome:
    """Return the outcome of a finished run; its pictures are not kept."""
    job = saved.job
    size = saved.result.picture.size
    return Outcome(photo=job.photo.path, status="made", folder=job.folder, settings=job.record.settings, size=size)


def found(task: Task, folder: PictureFolder) -> Outcome:
    """Return the outcome of a photo whose results are there."""
    settings = read_record(folder, COMMAND, StylizeSettings).settings
    size = read_size(folder.picture)
    return Outcome(photo=task.photo, status="finished before", folder=folder, settings=settings, size=size)


def failed(photo: Path, error: StylescoreError, folder: PictureFolder | None = None) -> Outcome:
    """Return the outcome of a photo that could not be made; its error can be sent to another process."""
    kind = InputError if isinstance(error, InputError) else StylescoreError
    return Outcome(photo=photo, status="failed", folder=folder, error=kind(str(error), hint=error.hint))


@contextmanager
def collect_failure(errors: list[StylescoreError], *kinds: type[StylescoreError], alone: bool) -> Iterator[None]:
    """Add an error of these kinds to a list instead of raising it, unless the call has one photo alone."""
    try:
        yield
    except kinds as error:
        if alone:
            raise
        errors.append(error)


def batch_error(outcomes: Sequence[Outcome], total: int) -> BatchError:
    """Return the error of a call in which these photos failed."""
    return BatchError(
        f"{len(outcomes)} of {total} photos were not made",
        hint="mend or leave out those named above; the same command makes what is missing and leaves the rest",
    )
