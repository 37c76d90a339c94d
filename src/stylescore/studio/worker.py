"""The process that computes: takes jobs from the queue, one at a time, until there is nothing left to do.

It belongs to no server: a server that restarts finds it at work. Asked to end, it saves the state of the run and gives
the job back; killed, the next worker does so and goes on from the last saved state.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stylescore.errors import StylescoreError
from stylescore.runs.lock import InUseError, hold
from stylescore.runs.workers import Workers, parse_workers
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import SERVER, STOP, JobStore, Status, StopRequest, StoredPhoto, StudioJob
from stylescore_apply.storage.files import SIGNALS

if TYPE_CHECKING:
    from stylescore.diffusion.captioner import Captioner
    from stylescore.studio.engine import Draft
    from stylescore.studio.style_list import StyleList

SECONDS_BETWEEN_LOOKS = 0.3
IDLE_SECONDS = 600.0
"""So long the models stay loaded while there is nothing to do."""
SERVER_SECONDS = 30.0
"""A server that has said nothing for so long is gone; a worker without one ends when the queue is empty."""
LOCK_TRIES = 10
MOST_DRAFTS = 4
"""Waiting pictures of which drafts are made before a run begins; each costs about as much as an iteration."""

Waiting = Sequence[tuple[StudioJob, StoredPhoto]]


class Engine(Protocol):
    """What makes a picture."""

    def prepare(self) -> None:
        """Do what makes the first run begin earlier, as there is nothing else to do."""
        ...

    def run(
        self, job: StudioJob, photo: StoredPhoto, report: Callable[..., StopRequest], waiting: Waiting = ()
    ) -> Status:
        """Make the picture of a job; return how it ended.

        Args:
            job: what to make.
            photo: from what.
            report: stores fields of the job, and returns how the user wants it to end; `drafts` are ids of jobs of
                which drafts were made.
            waiting: the next jobs, of which drafts may be made too.
        """
        ...

    def describe(self, photo: StoredPhoto) -> str:
        """Return a caption of a photo.

        Raises:
            ModelError: there is no model for that.
        """
        ...


class Stopped(Exception):
    """The worker is to end: the run saves its state, the job is given back."""


class EngineLost(Exception):
    """The process that computed is gone; the job is begun again as after a killed worker."""


@dataclass
class Worker:
    """Takes jobs of one device from the queue.

    Attributes:
        store: the queue.
        device: on which it computes.
        engine: makes the pictures.
        stopping: set to make it end after the iteration in progress.
    """

    store: JobStore
    device: str
    engine: Engine
    stopping: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.time)

    def work(self, *, idle_seconds: float = IDLE_SECONDS) -> None:
        """Take jobs until the worker is asked to end or there is nothing to do for long."""
        self.store.recover(self.device)
        last, is_prepared = time.monotonic(), False
        while not self._should_stop():
            if self._caption_one() or self._take_one():
                last = time.monotonic()
            elif not is_prepared:
                self.engine.prepare()
                is_prepared = True
            elif time.monotonic() - last > idle_seconds or not self._has_server():
                return
            else:
                self.stopping.wait(SECONDS_BETWEEN_LOOKS)

    def _caption_one(self) -> bool:
        """Write the caption of a photo that waits for it; return whether there was one."""
        photo = self.store.next_without_caption()
        if photo is None:
            return False
        caption = ""
        try:
            caption = self.engine.describe(photo)
        except Exception:  # a photo without a caption can be stylized
            traceback.print_exc()
        self.store.set_caption(photo.id, caption)
        return True

    def _take_one(self) -> bool:
        """Make the next picture; return whether there was one."""
        taken = self.store.claim(self.device)
        if taken is None:
            return False
        job, photo = taken
        status: Status = "failed"
        message = hint = None
        try:
            waiting = self.store.next_without_draft(MOST_DRAFTS)
            status = self.engine.run(job, photo, lambda **fields: self._report(job, **fields), waiting)
        except Stopped:
            status = "queued"
        except EngineLost:
            self.store.recover(self.device)
            return True
        except StylescoreError as error:
            message, hint = str(error), error.hint
        except Exception as error:
            traceback.print_exc()
            message, hint = f"the run failed: {error}", "the worker's log has the details"
        self.store.end(job.id, status, message=message, hint=hint)
        return True

    def _report(self, job: StudioJob, drafts: Sequence[str] = (), **fields: object) -> StopRequest:
        if self._should_stop():
            raise Stopped
        for key in drafts:
            self.store.report(key, draft=True)
        return self.store.report(job.id, **fields)

    def _should_stop(self) -> bool:
        return self.stopping.is_set() or self.store.last_mark(STOP) > self.begun

    def _has_server(self) -> bool:
        return time.time() - self.store.last_mark(SERVER) < SERVER_SECONDS


class LazyEngine:
    """The real engine, imported when it is needed or there is nothing else to do: torch takes seconds."""

    def __init__(self, folder: StudioFolder, device: str, styles: tuple[Path, ...]) -> None:
        self._folder, self._device, self._styles = folder, device, styles
        self._engine: object | None = None
        self._captioner: Captioner | None = None

    def run(
        self, job: StudioJob, photo: StoredPhoto, report: Callable[..., StopRequest], waiting: Waiting = ()
    ) -> Status:
        """Make the picture of a job, see `Engine`."""
        from stylescore.studio.settings import make_job_run
        from stylescore.studio.style_list import StyleList

        report(stage="starting")
        style_list = StyleList(self._styles, model=job.model)
        self._captioner = None  # its memory is the run's
        from stylescore.studio.engine import StylizeEngine, Task

        if not isinstance(self._engine, StylizeEngine):
            self._engine = StylizeEngine()
        task = Task(
            run=make_job_run(job.settings, style_list, job.model, self._device),
            photo=self._folder.photo(photo.id) / photo.file,
            place=self._folder.run(job.id),
            folder=job.folder,
            mask=None if job.settings.mask is None else self._folder.mask(photo.id, job.settings.mask),
            drafts=tuple(self._drafts([(job, photo), *waiting], style_list)),
        )
        return self._engine.run(task, report)

    def _drafts(self, jobs: Waiting, style_list: StyleList) -> Iterator[Draft]:
        """Yield the drafts that jobs lack; those of exported generators are made by the server."""
        from stylescore.studio.drafts import Drafts
        from stylescore.studio.engine import Draft

        exported = Drafts(self._folder, self._styles, model=jobs[0][0].model).versions()
        known = {style.name: style.lora_generator for style in style_list.styles()}
        for job, photo in jobs:
            generator = known.get(job.settings.style)
            has_one = job.draft or job.folder is not None or job.settings.style in exported
            if generator is not None and not has_one:
                file = self._folder.photo(photo.id) / photo.file
                yield Draft(job=job.id, photo=file, generator=generator, place=self._folder.run(job.id))

    def prepare(self) -> None:
        """Import what a run needs, see `Engine`."""
        import stylescore.studio.engine  # noqa: F401
        from stylescore.diffusion.checkpoints.loading import import_models

        import_models()

    def describe(self, photo: StoredPhoto) -> str:
        """Return a caption of a photo, see `Engine`."""
        from stylescore.diffusion.captioner import find_caption_model
        from stylescore.images import read_photo

        if self._captioner is None:
            self._captioner = find_caption_model(None).load(self._device)
        return self._captioner.describe(read_photo(self._folder.photo(photo.id) / photo.file))


def main() -> None:
    """Run a worker until it has nothing to do; end at once if the device has one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--styles", type=Path, action="append", default=[])
    parser.add_argument("--workers")
    given = parser.parse_args()
    folder = StudioFolder.make(given.data)
    place = folder.worker(given.device)
    place.mkdir(exist_ok=True)
    stopping = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    work = partial(_work, folder, given.device, tuple(given.styles), parse_workers(given.workers), stopping)
    for _ in range(LOCK_TRIES):
        try:
            with hold(place):
                work()
            return
        except InUseError:  # another worker, or a server that looks whether there is one
            time.sleep(SECONDS_BETWEEN_LOOKS)
    sys.exit(f"the device {given.device} has a worker already")


def _work(
    folder: StudioFolder, device: str, styles: tuple[Path, ...], workers: Workers | None, stopping: threading.Event
) -> None:
    """Take the jobs of a device, or of a cluster's processes."""
    if workers is None:
        Worker(JobStore(folder.database), device, LazyEngine(folder, device, styles), stopping).work()
        return
    from stylescore.studio.cluster import work_on_cluster

    work_on_cluster(folder, styles, workers, stopping)


if __name__ == "__main__":
    main()
