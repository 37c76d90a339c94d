"""The runner of `stylize`: runs a batch and writes what it yields, so that it can be interrupted at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from stylescore.assembly.stylizer import Result, Stylizer
from stylescore.config.run import RunConfig
from stylescore.images import Photo, read_photo, save_gif, save_png
from stylescore.images.sizes import resized
from stylescore.method.fit import Fitting, Iteration, fit
from stylescore.method.state import PictureState, capture
from stylescore.runs.folder import RunFolder, make_folder
from stylescore.runs.record import Record, read_record, to_toml, write_record
from stylescore.runs.resume import (
    absolute_model,
    absolute_preview_model,
    absolute_style,
    require_resumable,
    require_same,
    require_unchanged,
)
from stylescore.storage.files import sha256

COMMAND = "stylize"
SECONDS_BETWEEN_STATES = 10.0
FRAMES_IN_ANIMATION = 40
LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class StylizeSettings:
    """What `config.toml` holds of a run besides its hashes.

    Attributes:
        photo: path of the source picture.
        style_prompt: the style prompt, resolved.
        gif: whether an animation of the run is made.
        preview_every: iterations between previews; 0 for none.
        run: the configuration.
    """

    photo: str
    style_prompt: str
    gif: bool = False
    preview_every: int = 0
    run: RunConfig


StylizeRecord = Record[StylizeSettings]


class PictureFolder(RunFolder):
    """The folder of one photo's run."""

    @property
    def picture(self) -> Path:
        """The result at the photo's own size; the last file that is written."""
        return self.path / "picture.png"

    @property
    def model_picture(self) -> Path:
        """The result at the size the model worked at."""
        return self.path / "picture-model-size.png"

    @property
    def before_after(self) -> Path:
        """Photo and result side by side."""
        return self.path / "before-after.png"

    @property
    def animation(self) -> Path:
        """The run as an animation."""
        return self.path / "run.gif"

    @property
    def previews(self) -> Path:
        """The folder of the previews."""
        return self.path / "previews"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the run writes, but those in subfolders."""
        return (*super().files, self.picture, self.model_picture, self.before_after, self.animation)

    @property
    def subfolders(self) -> tuple[Path, ...]:
        """Every folder that the run may write in this one."""
        return (self.previews,)

    def preview(self, iteration: int) -> Path:
        """The preview after `iteration` iterations."""
        return self.previews / f"step-{iteration:05d}.png"


@dataclass(frozen=True)
class Job:
    """One photo and the folder of its run."""

    photo: Photo
    folder: PictureFolder
    record: StylizeRecord


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
    """

    stylizer: Stylizer
    jobs: Sequence[Job]
    fitting: Fitting
    states: list[PictureState]
    frames: list[list[Image.Image]] = field(default_factory=list)
    states_written: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, stylizer: Stylizer, jobs: Sequence[Job], saved: Sequence[PictureState] | None = None) -> Batch:
        """Encode the photos, or resume from saved states."""
        fitting = stylizer.start([job.photo for job in jobs], saved)
        states = [capture(fitting, index) for index in range(len(jobs))]
        return cls(stylizer, jobs, fitting, states, [[] for _ in jobs])

    def run(self) -> Generator[Iteration | SavedResult, None, None]:
        """Yield every iteration, then every saved result; if it is stopped, the states are saved."""
        for job in self.jobs:
            job.folder.cut_steps(self.fitting.iteration)
        with self._save_states_on_exit():
            for iteration in fit(self.fitting):
                self._write_iteration(iteration)
                yield iteration
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
        """Save the state of every picture that is not finished."""
        for job, state in zip(self.jobs, self.states, strict=True):
            if not job.folder.picture.is_file():
                job.folder.save_state(state)
        self.states_written = time.monotonic()

    def _write_result(self, index: int, job: Job) -> SavedResult:
        """Write the pictures of one job and remove its state."""
        result = self.stylizer.result(self.fitting, index, job.photo)
        folder, metadata = job.folder, {"stylescore": public_record(job.record)}
        save_png(result.model_picture, folder.model_picture, metadata)
        save_png(result.before_after, folder.before_after, metadata)
        if job.record.settings.gif:
            save_gif(_equal_frames(self.frames[index], result.model_picture), folder.animation)
        save_png(result.picture, folder.picture, metadata)
        folder.remove_state()
        return SavedResult(job, result)


def _equal_frames(frames: Sequence[Image.Image], last: Image.Image) -> list[Image.Image]:
    """Return an animation's frames and the last one, all of its size: a run may have grown in between."""
    return [*(resized(frame, last.size) for frame in frames), last]


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


def public_record(record: StylizeRecord) -> str:
    """Return the record as TOML for a picture that may be passed on: files by name, without their folders."""
    settings = record.settings
    run = _map_names(settings.run, _base_name, _base_name, _base_name)
    public = replace(settings, photo=Path(settings.photo).name, run=run)
    return to_toml(replace(record, settings=public))


def _map_names(
    run: RunConfig, model: Callable[[str], str], style: Callable[[str], str], preview: Callable[[str], str]
) -> RunConfig:
    """Return a configuration with a function applied to every name of its models and styles."""
    return replace(
        run,
        model=model(run.model),
        style_model=model(run.style_model) if run.style_model else run.style_model,
        preview_model=preview(run.preview_model) if run.preview_model else run.preview_model,
        styles=tuple(replace(entry, name=style(entry.name)) for entry in run.styles),
    )


def _base_name(name: str) -> str:
    """Return a path's last part, and any other name unchanged."""
    return Path(name).name if Path(name).is_absolute() else name


def make_job(stylizer: Stylizer, photo: Photo, parent: Path, *, gif: bool, preview_every: int) -> Job:
    """Make the run folder of a photo, with its record.

    Raises:
        ModelError: there will be previews, and the preview model cannot be used; no folder is made then.
    """
    settings = StylizeSettings(
        photo=str(photo.path.resolve()),
        style_prompt=stylizer.style_prompt,
        run=_map_names(resolve_style_copy(stylizer), absolute_model, absolute_style, absolute_preview_model),
        gif=gif,
        preview_every=preview_every,
    )
    hashes = {"photo": sha256(photo.path), **_model_hashes(stylizer)}
    record = Record(command=COMMAND, hashes=hashes, settings=settings)
    _require_previews(settings, stylizer)
    folder = PictureFolder.new(parent, _folder_name(photo.path, stylizer.run))
    write_record(folder, record)
    return Job(photo, folder, record)


def resolve_style_copy(stylizer: Stylizer) -> RunConfig:
    """Return the run with its style copy decided, so that a resumed run decides the same."""
    run = stylizer.run
    return run if run.style_model else replace(run, style_copy=stylizer.style_has_network)


def _model_hashes(stylizer: Stylizer) -> dict[str, str | tuple[str, ...]]:
    """Return the hashes of models and styles by what they are; there is none for a model that is not used."""
    return {name.removesuffix("_sha256"): value for name, value in stylizer.hashes.items() if value}


def _require_previews(settings: StylizeSettings, stylizer: Stylizer) -> None:
    """Raise `ModelError` if the run makes previews or an animation and its preview model cannot be used."""
    if settings.gif or settings.preview_every:
        _ = stylizer.preview_codec


def _folder_name(photo: Path, run: RunConfig) -> str:
    """Return the name of a run's folder: photo and styles, cut to what file systems accept."""
    name = f"{photo.stem}-{'+'.join(Path(style.name).stem for style in run.styles)}"
    return name.encode()[:LONGEST_NAME].decode(errors="ignore")


def read_job(path: Path) -> tuple[Job, PictureState | None]:
    """Read the folder of an interrupted run: its photo, its record, and its state if one was saved.

    Raises:
        ConfigError: it is not the folder of a run that can be resumed, or the photo changed.
        OutputError: something stands in the way of what the run would write.
        PictureError: the photo cannot be read.
    """
    folder = PictureFolder(path)
    record = read_record(folder, COMMAND, StylizeSettings)
    state = folder.load_state(PictureState)
    require_resumable(
        folder,
        0 if state is None else state.iteration,
        finished=state is None and folder.picture.is_file(),
        hint=f"its picture is {folder.picture}",
    )
    photo = read_photo(record.settings.photo)
    require_same(f"photo {record.settings.photo!r}", record.hashes.get("photo"), sha256(photo.path))
    return Job(photo, folder, record), state


def require_same_models(job: Job, stylizer: Stylizer) -> None:
    """Raise one of our errors if models or styles changed after a run began, or its preview model cannot be used."""
    require_unchanged(job.record, _model_hashes(stylizer))
    _require_previews(job.record.settings, stylizer)
