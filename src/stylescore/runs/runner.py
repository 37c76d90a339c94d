"""Runs a batch and keeps what it yields in the run folders, so that it can be interrupted at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import tomli_w
from PIL import Image

from stylescore.assembly.stylizer import Result, Stylizer
from stylescore.catalog.registry import ModelSource, resolve_model, resolve_preview_model, resolve_style
from stylescore.config.execution import StyleWeights
from stylescore.config.run import RunConfig
from stylescore.config.toml import to_table
from stylescore.errors import ConfigError
from stylescore.images import Photo, save_gif, save_png
from stylescore.images.sizes import resize
from stylescore.method.fit import Fitting, Iteration, fit
from stylescore.method.state import PictureState, capture
from stylescore.runs.folder import Record, RunFolder, step_row
from stylescore.storage.files import sha256

SECONDS_BETWEEN_STATES = 10.0
FRAMES_IN_ANIMATION = 40
LONGEST_NAME = 200


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


@dataclass
class Batch:
    """A batch under way.

    Attributes:
        stylizer: the loaded configuration.
        jobs: photos of one working size.
        fitting: the run.
        states: of every picture after the last whole iteration; what is kept when the run stops.
        frames: pictures of the animation, per job.
    """

    stylizer: Stylizer
    jobs: Sequence[Job]
    fitting: Fitting
    states: list[PictureState]
    frames: list[list[Image.Image]] = field(default_factory=list)
    states_written: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, stylizer: Stylizer, jobs: Sequence[Job], states: Sequence[PictureState] | None = None) -> Batch:
        """Encode the photos, or take up kept states."""
        fitting = stylizer.start([job.photo for job in jobs], states)
        kept = [capture(fitting, index) for index in range(len(jobs))]
        return cls(stylizer, jobs, fitting, kept, [[] for _ in jobs])

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
        """Write the state of the last whole iteration when the block is left early."""
        try:
            yield
        except BaseException:
            self.write_states()
            raise

    def keep(self, iteration: Iteration) -> None:
        """Write the iteration's row, and previews, frames and the state when they are due."""
        for index, job in enumerate(self.jobs):
            job.folder.append_step(step_row(iteration, index))
            self.keep_picture(iteration.index + 1, index, job)
        self.states = [capture(self.fitting, index) for index in range(len(self.jobs))]
        if time.monotonic() - self.states_written > SECONDS_BETWEEN_STATES:
            self.write_states()

    def keep_picture(self, done: int, index: int, job: Job) -> None:
        """Decode once for preview and animation if either is due after `done` iterations."""
        preview_due = job.record.preview_every > 0 and done % job.record.preview_every == 0
        frame_due = job.record.gif and done % self.frame_interval == 0
        if preview_due or frame_due:
            picture = self.stylizer.preview(self.fitting, index)
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
        """Keep the state of every picture that is not finished."""
        for job, state in zip(self.jobs, self.states, strict=True):
            if not job.folder.picture.is_file():
                job.folder.save_state(state)
        self.states_written = time.monotonic()

    def finish(self, index: int, job: Job) -> Kept:
        """Write the pictures of one job and forget its state."""
        result = self.stylizer.result(self.fitting, index, job.photo)
        folder, metadata = job.folder, {"stylescore": shared_record(job.record)}
        save_png(result.model_picture, folder.model_picture, metadata)
        save_png(result.before_after, folder.before_after, metadata)
        if job.record.gif:
            save_gif(frames_of(self.frames[index], result.model_picture), folder.animation)
        save_png(result.picture, folder.picture, metadata)
        folder.drop_state()
        return Kept(job, result)


def frames_of(frames: Sequence[Image.Image], last: Image.Image) -> list[Image.Image]:
    """Return an animation's frames with the last one, all of its size: a run may have grown on the way."""
    return [*(resize(frame, last.size) for frame in frames), last]


def shared_record(record: Record) -> str:
    """Return the record as TOML for a picture that may be passed on: files by name, without their folders."""
    run = renamed(record.run, bare, bare, bare)
    return str(tomli_w.dumps(to_table(replace(record, photo=Path(record.photo).name, run=run))))


def renamed(
    run: RunConfig, model: Callable[[str], str], style: Callable[[str], str], preview: Callable[[str], str]
) -> RunConfig:
    """Return a configuration with the names of its models and styles passed through functions."""
    return replace(
        run,
        model=model(run.model),
        style_model=model(run.style_model) if run.style_model else run.style_model,
        preview_model=preview(run.preview_model) if run.preview_model else run.preview_model,
        styles=tuple(replace(entry, name=style(entry.name)) for entry in run.styles),
    )


def bare(name: str) -> str:
    """Return a path's last part, and any other name as it is."""
    return Path(name).name if Path(name).is_absolute() else name


def lasting_model(name: str) -> str:
    """Return a model's name so that it means the same in any working folder."""
    return lasting(name, resolve_model(name))


def lasting_preview_model(name: str) -> str:
    """Return a preview model's name so that it means the same in any working folder."""
    return lasting(name, resolve_preview_model(name))


def lasting(name: str, source: ModelSource) -> str:
    """Return the name itself where it means the same in any working folder, else the absolute path."""
    return name if source.bundled or source.kind == "hub" else str(Path(source.location).absolute())


def lasting_style(name: str) -> str:
    """Return a style's name so that it means the same in any working folder."""
    path = Path(name).expanduser()
    return str(path.absolute()) if resolve_style(name).path == path else name


def require_same(what: str, then: object, now: object) -> None:
    """Raise `ConfigError` if something is not what it was when the run began."""
    if then != now:
        raise ConfigError(f"the {what} has changed since the run began", hint="begin a new run")


def require_unchanged(record: Record, stylizer: Stylizer) -> None:
    """Raise `ConfigError` if a model or a style is not what it was when the run began."""
    for field_name, now in stylizer.hashes.items():
        what = field_name.removesuffix("_sha256").replace("_", " ")
        require_same(what, getattr(record, field_name), now)


def require_previews(record: Record, stylizer: Stylizer) -> None:
    """Raise `ModelError` if the run makes previews or an animation and they cannot be decoded as it says."""
    if record.gif or record.preview_every:
        _ = stylizer.preview_codec


def settled(stylizer: Stylizer) -> RunConfig:
    """Return the run with its choice of a copy as it fell, so that it falls so again when the run is taken up."""
    run = stylizer.run
    if run.style_model:
        return run
    chosen: StyleWeights = "merged" if stylizer.style_has_network else "adapter"
    return replace(run, execution=replace(run.execution, style_weights=chosen))


def folder_name(photo: Path, run: RunConfig) -> str:
    """Return what the folder of a run is called: photo and styles, cut to what file systems take."""
    name = f"{photo.stem}-{'+'.join(Path(style.name).stem for style in run.styles)}"
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")


def new_job(stylizer: Stylizer, photo: Photo, parent: Path, *, gif: bool, preview_every: int) -> Job:
    """Make the run folder of a photo, with its record.

    Raises:
        ModelError: previews are asked for, and the preview model cannot be used; no folder is made then.
    """
    record = Record(
        photo=str(photo.path.resolve()),
        photo_sha256=sha256(photo.path),
        style_prompt=stylizer.style_prompt,
        run=renamed(settled(stylizer), lasting_model, lasting_style, lasting_preview_model),
        gif=gif,
        preview_every=preview_every,
        **stylizer.hashes,
    )
    require_previews(record, stylizer)
    folder = RunFolder.new(parent, folder_name(photo.path, stylizer.run))
    folder.begin(record)
    return Job(photo, folder, record)
