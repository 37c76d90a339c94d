"""Runs a batch and keeps what it yields in the run folders, so that it can be interrupted at any time."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomli_w
from PIL import Image

from stylescore.errors import NonFiniteError
from stylescore.files import sha256
from stylescore.fit import Fitting, Iteration, fit
from stylescore.images import Photo, save_gif, save_png
from stylescore.runs import Record, RunFolder, step_row
from stylescore.state import PictureState, capture
from stylescore.stylizer import Result, Stylizer
from stylescore.tables import to_table

SECONDS_BETWEEN_STATES = 10.0
FRAMES_IN_ANIMATION = 40


@dataclass(frozen=True)
class Job:
    """One photo and the folder its run is kept in."""

    photo: Photo
    folder: RunFolder
    record: Record


@dataclass(frozen=True)
class Kept:
    """What a finished run left behind."""

    job: Job
    result: Result
    files: tuple[Path, ...]


@dataclass
class Batch:
    """A batch under way.

    Attributes:
        stylizer: the loaded configuration.
        jobs: photos of one working size.
        fitting: the run's state.
        frames: pictures of the animation, per job.
    """

    stylizer: Stylizer
    jobs: Sequence[Job]
    fitting: Fitting
    frames: list[list[Image.Image]] = field(default_factory=list)
    states_written: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, stylizer: Stylizer, jobs: Sequence[Job], states: Sequence[PictureState] | None = None) -> Batch:
        """Encode the photos, or take up kept states."""
        fitting = stylizer.start([job.photo for job in jobs], states)
        return cls(stylizer, jobs, fitting, [[] for _ in jobs])

    def run(self) -> Generator[Iteration | Kept, None, None]:
        """Yield every iteration, then what was kept of each picture; leaves a state behind if it is stopped."""
        for job in self.jobs:
            job.folder.cut_steps(self.fitting.iteration)
        with self.state_kept_on_exit():
            for iteration in fit(self.fitting):
                self.keep(iteration)
                yield iteration
        for index, job in enumerate(self.jobs):
            yield self.finish(index, job)

    @contextmanager
    def state_kept_on_exit(self) -> Iterator[None]:
        """Write the state when the block is left early, but not one that a failed step has touched."""
        try:
            yield
        except NonFiniteError:
            raise
        except BaseException:
            self.write_states()
            raise

    def keep(self, iteration: Iteration) -> None:
        """Write the iteration's row, and previews, frames and the state when they are due."""
        for index, job in enumerate(self.jobs):
            job.folder.append_step(step_row(iteration, index))
            self.keep_picture(iteration.index + 1, index, job)
        if time.monotonic() - self.states_written > SECONDS_BETWEEN_STATES:
            self.write_states()

    def keep_picture(self, done: int, index: int, job: Job) -> None:
        """Decode once for preview and animation if either is due after `done` iterations."""
        preview_due = job.record.preview_every > 0 and done % job.record.preview_every == 0
        frame_due = job.record.gif and done % self.frame_interval == 0
        if preview_due or frame_due:
            picture = self.stylizer.picture(self.fitting, index)
            if frame_due:
                self.frames[index].append(picture)
            if preview_due:
                job.folder.preview(done).parent.mkdir(exist_ok=True)
                save_png(picture, job.folder.preview(done))

    @property
    def frame_interval(self) -> int:
        """Iterations between two frames of the animation."""
        return max(1, self.fitting.iterations // FRAMES_IN_ANIMATION)

    def write_states(self) -> None:
        """Keep the state of every picture."""
        for index, job in enumerate(self.jobs):
            job.folder.save_state(capture(self.fitting, index))
        self.states_written = time.monotonic()

    def finish(self, index: int, job: Job) -> Kept:
        """Write the pictures of one job and forget its state."""
        result = self.stylizer.result(self.fitting, index, job.photo)
        folder, metadata = job.folder, {"stylescore": shared_record(job.record)}
        save_png(result.model_picture, folder.model_picture, metadata)
        save_png(result.before_after, folder.before_after, metadata)
        files = [folder.picture, folder.model_picture, folder.before_after]
        if job.record.gif:
            save_gif([*self.frames[index], result.model_picture], folder.animation)
            files.append(folder.animation)
        save_png(result.picture, folder.picture, metadata)
        folder.drop_state()
        return Kept(job, result, tuple(files))


def shared_record(record: Record) -> str:
    """Return the record as TOML for a picture that may be passed on: the photo's name without its folder."""
    return str(tomli_w.dumps(to_table(replace(record, photo=Path(record.photo).name))))


def new_job(stylizer: Stylizer, photo: Photo, parent: Path, *, gif: bool, preview_every: int) -> Job:
    """Make the run folder of a photo, with its record."""
    model_hash, style_hashes = stylizer.hashes()
    record = Record(
        photo=str(photo.path.resolve()),
        photo_sha256=sha256(photo.path),
        model_sha256=model_hash,
        style_sha256=style_hashes,
        style_prompt=stylizer.style_prompt,
        run=stylizer.run,
        gif=gif,
        preview_every=preview_every,
    )
    style_name = "+".join(Path(style.name).stem for style in stylizer.run.styles)
    folder = RunFolder.new(parent, f"{photo.path.stem}-{style_name}")
    folder.write_record(record)
    return Job(photo, folder, record)
