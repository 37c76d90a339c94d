"""The runner of `stylize`: runs a batch and writes what it yields, so that it can be interrupted at any time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from stylescore.assembly.stylizer import Result, Stylizer
from stylescore.images import save_gif, save_png, save_result
from stylescore.images.sizes import resize
from stylescore.method.fit import Fitting, Iteration, fit
from stylescore.method.state import PictureState, capture
from stylescore.runs.costs import Cost, Meter, read_cost, write_cost
from stylescore.runs.folder import make_folder
from stylescore.runs.job import Job, public_record
from stylescore.runs.record import flat_settings
from stylescore_apply.storage.files import uninterrupted

SECONDS_BETWEEN_STATES = 10.0
FRAMES_IN_ANIMATION = 40


@dataclass(frozen=True)
class SavedResult:
    """The result of a finished run, whose files are written."""

    job: Job
    result: Result


@dataclass
class Batch:
    """A batch in progress.

    Attributes:
        stylizer: the loaded configuration.
        jobs: photos of one working size.
        fitting: the run.
        states: of every picture after the last whole iteration; they are saved when the run stops.
        frames: pictures of the animation, per job.
        meter: measures this part of the run, if a job asks for it.
        earlier: what the parts before have cost, per job.
    """

    stylizer: Stylizer
    jobs: Sequence[Job]
    fitting: Fitting
    states: list[PictureState]
    frames: list[list[Image.Image]] = field(default_factory=list)
    states_written: float = field(default_factory=time.monotonic)
    meter: Meter | None = None
    earlier: list[Cost | None] = field(default_factory=list)

    @classmethod
    def start(cls, stylizer: Stylizer, jobs: Sequence[Job], saved: Sequence[PictureState] | None = None) -> Batch:
        """Encode the photos, or resume from saved states."""
        is_measured = any(job.record.settings.cost for job in jobs)
        meter = Meter(stylizer.device, stylizer.counter) if is_measured else None
        earlier = [read_cost(job.folder.path) if saved else None for job in jobs]
        captions = [job.record.settings.run.caption for job in jobs]
        fitting = stylizer.start([job.photo for job in jobs], saved, captions)
        states = [capture(fitting, index) for index in range(len(jobs))]
        return cls(stylizer, jobs, fitting, states, [[] for _ in jobs], meter=meter, earlier=earlier)

    def run(self) -> Generator[Iteration | SavedResult, None, None]:
        """Yield every iteration, then every saved result; if it is stopped, the states are saved."""
        for job in self.jobs:
            job.folder.remove_partials()
            job.folder.cut_steps(self.fitting.iteration)
        with self._save_states_on_exit():
            for iteration in fit(self.fitting):
                self._write_iteration(iteration)
                yield iteration
            if len(self.jobs) > 1:  # what is left to do for one picture no longer depends on the others
                self._save_states()
            for index, job in enumerate(self.jobs):
                yield self._write_result(index, job)

    @contextmanager
    def _save_states_on_exit(self) -> Iterator[None]:
        """Save the states of the last whole iteration when the block is left early."""
        try:
            yield
        except BaseException:
            self._save_states()
            raise

    def _write_iteration(self, iteration: Iteration) -> None:
        """Write the iteration's row, and previews, frames and states when they are due."""
        for index, job in enumerate(self.jobs):
            job.folder.append_step(step_row(iteration, index))
            self._write_preview(iteration.index + 1, index, job)
        self.states = [capture(self.fitting, index) for index in range(len(self.jobs))]
        if time.monotonic() - self.states_written > SECONDS_BETWEEN_STATES:
            self._save_states()

    def _write_preview(self, done: int, index: int, job: Job) -> None:
        """Decode once for preview and animation if either is due after `done` iterations."""
        settings = job.record.settings
        preview_due = settings.preview_every > 0 and done % settings.preview_every == 0
        frame_due = settings.gif and done % self._frame_interval == 0
        if preview_due or frame_due:
            picture = self.stylizer.preview(self.fitting, index)
            if frame_due:
                self.frames[index].append(picture)
            if preview_due:
                make_folder(job.folder.previews)
                save_png(picture, job.folder.preview(done))

    @property
    def _frame_interval(self) -> int:
        """Iterations between two frames of the animation."""
        return max(1, self.fitting.iterations // FRAMES_IN_ANIMATION)

    def _save_states(self) -> None:
        """Save the state of every picture that is not finished, so that all have one of the same iteration at any time.

        Ctrl-C waits until they are written.
        """
        unfinished = [
            (job, replace(state, settings=flat_settings(job.record)))
            for job, state in zip(self.jobs, self.states, strict=True)
            if not job.folder.picture.is_file()
        ]
        with uninterrupted():
            if len(unfinished) == 1:
                job, state = unfinished[0]
                job.folder.save_state(state)
            else:
                for job, state in unfinished:
                    job.folder.stage_state(state)
                for job, _ in unfinished:
                    job.folder.commit_state()
        for index, job in enumerate(self.jobs):
            if not job.folder.picture.is_file():
                self._write_cost(index, job)
        self.states_written = time.monotonic()

    def _write_cost(self, index: int, job: Job) -> None:
        """Write what the picture has cost so far, if its run is measured."""
        if job.record.settings.cost and self.meter is not None:
            write_cost(job.folder.path, self.meter.read(len(self.jobs)).after(self.earlier[index]))

    def _write_result(self, index: int, job: Job) -> SavedResult:
        """Write the pictures of one job and remove its state."""
        result = self.stylizer.result(self.fitting, index, job.photo)
        folder, metadata = job.folder, {"stylescore": public_record(job.record)}
        save_png(result.model_picture, folder.model_picture, metadata)
        save_png(result.before_after, folder.before_after, metadata)
        if job.record.settings.gif:
            save_gif(_equal_frames(self.frames[index], result.model_picture), folder.animation)
        self._write_cost(index, job)
        output = job.record.settings.output
        save_result(result.picture, folder.picture_as(output), job.photo, output, metadata)
        folder.remove_state()
        return SavedResult(job, result)


def _equal_frames(frames: Sequence[Image.Image], last: Image.Image) -> list[Image.Image]:
    """Return an animation's frames and the last one, all of its size: a run may have grown in between."""
    return [*(resize(frame, last.size) for frame in frames), last]


def step_row(iteration: Iteration, picture: int) -> dict[str, Any]:
    """Return one picture's line of the log."""
    step, fake = iteration.step, iteration.fake
    batch = len(step.t)
    row = {
        "iteration": iteration.index,
        "t": int(step.t[picture]),
        "learning_rate": iteration.learning_rate,
        "score_loss": float(step.score_loss[picture]),
        "spectrum_loss": float(step.spectrum_loss[picture]),
        "relevance_mean": float(step.relevance[picture].mean()),
        "forward_passes": iteration.forward_passes / batch,
        "trained_passes": iteration.trained_passes / batch,
    }
    if fake is not None:
        row |= {"fake_t": int(fake.t[picture]), "fake_loss": float(fake.loss[picture])}
    return row
