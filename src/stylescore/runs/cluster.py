"""Spreads the photos of a call over a Ray cluster: one process for each GPU or slot of CPUs, which keeps its models.

Ray starts the processes, hands out the photos, and starts a process again that has died. A photo whose process died is
resumed from its last saved state. All machines need the same files under the same paths.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.run import RunConfig
from stylescore.diffusion.captioner import Captioner, CaptionModel
from stylescore.errors import StylescoreError
from stylescore.images import Photo
from stylescore.method.state import PictureState
from stylescore.runs.job import Job, PictureFolder, Task, Written, is_finished, make_jobs
from stylescore.runs.lock import InUseError, hold
from stylescore.runs.making import Describe, clear_finished, jobs_at, open_photos, read_batch
from stylescore.runs.outcomes import OF_ONE_PHOTO, Outcome, collect_failure, failed, found, made
from stylescore.runs.plan import Interrupted, find_begun
from stylescore.runs.runner import Batch, SavedResult
from stylescore.runs.workers import Workers, connected, find_slots

ATTEMPTS = 3
"""How often a photo is begun whose process dies; one that is too large for the memory would end every process."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one process makes at a time: a batch.

    Attributes:
        tasks: its photos.
        folders: of their runs, if they were begun by an earlier call.
        key: of the batch, by which an attempt finds the runs that the one before has begun.
        again: whether finished runs are made again.
    """

    tasks: tuple[Task, ...]
    folders: tuple[PictureFolder, ...] = ()
    key: str = ""
    again: bool = False

    @classmethod
    def new(cls, tasks: Sequence[Task]) -> Assignment:
        """Return a batch that has no runs yet."""
        return cls(tasks=tuple(tasks), key=secrets.token_hex(4))

    @classmethod
    def of(cls, step: Interrupted, *, again: bool) -> Assignment:
        """Return a batch that is resumed."""
        return cls(tasks=step.tasks, folders=step.folders, again=again)


def make_on_cluster(
    workers: Workers,
    run: RunConfig,
    written: Written,
    caption_model: CaptionModel | None,
    assignments: Sequence[Assignment],
) -> Iterator[Outcome]:
    """Make photos on a Ray cluster, and yield what became of each in the order in which they are finished.

    The cluster is the one that `RAY_ADDRESS` names, else this machine.

    Args:
        workers: how many processes there are to be.
        run: the configuration.
        written: what the runs write.
        caption_model: what writes captions where a task has none.
        assignments: the batches.

    Raises:
        StylescoreError: the models cannot be loaded, or a fault that all photos have.
    """
    import ray
    from ray.exceptions import RayActorError

    with connected():
        actors = _start_actors(workers, run, written, caption_model, len(assignments))
        waiting = list(assignments)
        running: dict[Any, tuple[Any, Assignment]] = {}
        while waiting or running:
            while waiting and actors:
                actor, assignment = actors.pop(), waiting.pop(0)
                running[actor.make.remote(assignment)] = (actor, assignment)
            done, _ = ray.wait(list(running))
            actor, assignment = running.pop(done[0])
            try:
                yield from _received(ray.get(done[0]))
            except RayActorError:
                lost = StylescoreError(
                    f"its process died {ATTEMPTS} times", hint="it may need more memory than there is"
                )
                yield from (failed(task.photo, lost) for task in assignment.tasks)
            actors.append(actor)


def _received(result: list[Outcome] | StylescoreError) -> list[Outcome]:
    """Return the outcomes of a batch, or raise what all photos would fail with."""
    if isinstance(result, StylescoreError):
        raise result
    return result


def _start_actors(
    workers: Workers, run: RunConfig, written: Written, caption_model: CaptionModel | None, most: int
) -> list[Any]:
    """Start the processes, each with a GPU if the cluster has some and the run may use them."""
    import ray

    slots = find_slots(workers, run.execution.device, most)
    kind = ray.remote(_Worker).options(max_restarts=-1, max_task_retries=ATTEMPTS - 1, **slots.resources)
    place = str(Path.cwd())
    return [kind.remote(place, run, written, caption_model) for _ in range(slots.count)]


class _Worker:
    """A process of the cluster: it loads the models once, and makes one batch after another."""

    def __init__(self, place: str, run: RunConfig, written: Written, caption_model: CaptionModel | None) -> None:
        if Path(place).is_dir():
            os.chdir(place)
        self._run, self._written, self._caption_model = run, written, caption_model

    def make(self, assignment: Assignment) -> list[Outcome] | StylescoreError:
        """Make a batch; return what became of its photos, or a failure that every other batch would have too."""
        try:
            return list(make_assignment(self._stylizer, assignment, self._written, self._describe))
        except InUseError as error:
            return [failed(task.photo, error) for task in assignment.tasks]
        except StylescoreError as error:
            return failed(assignment.tasks[0].photo, error).error or error

    @cached_property
    def _stylizer(self) -> Stylizer:
        return Stylizer(self._run)

    @cached_property
    def _captioner(self) -> Captioner:
        assert self._caption_model is not None
        return self._caption_model.load(self._run.execution.device)

    def _describe(self, task: Task, photo: Photo) -> str:
        return self._captioner.describe(photo)


def make_assignment(
    stylizer: Stylizer, assignment: Assignment, written: Written, describe: Describe
) -> Iterator[Outcome]:
    """Make a batch without a terminal, and yield what became of its photos.

    Args:
        stylizer: the loaded models.
        assignment: the batch.
        written: what its runs write.
        describe: writes captions where a task has none.
    """
    begun = dict(zip(assignment.tasks, assignment.folders, strict=False)) or find_begun(
        assignment.tasks, stylizer.run, assignment.key
    )
    with ExitStack() as locks:
        for folder in begun.values():
            locks.enter_context(hold(folder.path))
        if assignment.again:
            clear_finished(list(begun.values()))
        for task, folder in list(begun.items()):
            if is_finished(folder):
                yield found(task, begun.pop(task))
        yield from _go_on(stylizer, begun)
        yield from _begin(stylizer, assignment, written, describe, locks)


def _go_on(stylizer: Stylizer, begun: Mapping[Task, PictureFolder]) -> Iterator[Outcome]:
    """Resume the unfinished runs of a batch."""
    errors: list[StylescoreError] = []
    jobs: list[Job] = []
    with collect_failure(errors, StylescoreError, alone=False):
        saved, states = read_batch(list(begun.values())) if begun else ([], None)
        jobs = jobs_at(list(begun), saved, stylizer)
    if jobs:
        yield from _finish(stylizer, jobs, states)
    for error in errors:
        yield from (failed(task.photo, error) for task in begun)


def _begin(
    stylizer: Stylizer, assignment: Assignment, written: Written, describe: Describe, locks: ExitStack
) -> Iterator[Outcome]:
    """Make the photos of a batch that have no run yet."""
    known = {*assignment.folders, *find_begun(assignment.tasks, stylizer.run, assignment.key).values()}
    tasks = assignment.tasks[len(known) :] if known else assignment.tasks
    opened: list[tuple[Task, Photo]] = []
    for each in open_photos(tasks, stylizer.run.mask_feather, describe):
        if isinstance(each, Outcome):
            yield each
        else:
            opened.append(each)
    if opened:
        key = None if known else assignment.key
        jobs = make_jobs(stylizer, [task for task, _ in opened], [photo for _, photo in opened], written, key)
        for job in jobs:
            locks.enter_context(hold(job.folder.path))
        yield from _finish(stylizer, jobs, None)


def _finish(stylizer: Stylizer, jobs: Sequence[Job], states: Sequence[PictureState] | None) -> Iterator[Outcome]:
    """Run a batch to its end."""
    errors: list[StylescoreError] = []
    with collect_failure(errors, *OF_ONE_PHOTO, alone=False):
        for event in Batch.start(stylizer, jobs, states).run():
            if isinstance(event, SavedResult):
                yield made(event)
    for error in errors:
        yield from (failed(job.photo.path, error, job.folder) for job in jobs if not is_finished(job.folder))
