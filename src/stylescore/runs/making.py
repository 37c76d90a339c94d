"""Steps from the photos of a batch to its jobs, the same in this process and in those of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stylescore.assembly.stylizer import Stylizer
from stylescore.errors import PictureError, StylescoreError
from stylescore.images import Photo
from stylescore.method.state import PictureState
from stylescore.runs.job import (
    NO_PHOTOS,
    Job,
    PictureFolder,
    SavedJob,
    Task,
    common_states,
    is_finished,
    read_job,
    require_same_models,
)
from stylescore.runs.outcomes import Outcome, collect_failure, failed

Describe = Callable[[Task, Photo], str]
"""Writes the caption of a photo."""


def open_photos(
    tasks: Sequence[Task], feather: int | None, describe: Describe | None, *, alone: bool = False
) -> Iterator[tuple[Task, Photo] | Outcome]:
    """Yield each task with its caption and its photo, or why the photo cannot be read.

    Args:
        tasks: a batch.
        feather: width of the soft edge of masks.
        describe: writes captions where a task has none.
        alone: whether a photo that cannot be read is raised instead.
    """
    for task in tasks:
        errors: list[StylescoreError] = []
        with collect_failure(errors, PictureError, alone=alone):
            photo = task.open(feather)
            missing = task.caption is None and describe is not None
            yield (replace(task, caption=describe(task, photo)) if missing and describe else task), photo
        for error in errors:
            yield failed(task.photo, error)


def clear_finished(folders: Sequence[PictureFolder]) -> None:
    """Remove the results of runs that are to be made again; a batch is made again as a whole.

    Raises:
        OutputError: the system refuses.
    """
    if any(map(is_finished, folders)):
        for folder in folders:
            folder.clear()


def read_batch(
    folders: Sequence[PictureFolder], photos: Mapping[str, Path] = NO_PHOTOS
) -> tuple[list[SavedJob], list[PictureState] | None]:
    """Return the runs of an interrupted batch, and the states to resume them from; `None` if it begins again.

    Args:
        folders: locked by this process.
        photos: photos that were moved, by their hashes.

    Raises:
        StylescoreError: one of them cannot be resumed.
    """
    saved = [read_job(folder.path, photos) for folder in folders]
    return saved, common_states(saved)


def jobs_at(tasks: Sequence[Task], saved: Sequence[SavedJob], stylizer: Stylizer) -> list[Job]:
    """Return the jobs of an interrupted batch, with their photos under the paths that were given.

    Raises:
        StylescoreError: models, styles or the preview model cannot be used any more.
    """
    for entry in saved:
        require_same_models(entry.job, stylizer)
    return [
        replace(entry.job, photo=replace(entry.job.photo, path=task.photo))
        for task, entry in zip(tasks, saved, strict=True)
    ]
