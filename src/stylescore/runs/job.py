"""The job of `stylize`: one photo, the folder of its run, and its record, made anew or read to resume."""

from __future__ import annotations

import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.execution import StyleWeights
from stylescore.config.output import SUFFIXES, OutputConfig
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, PictureError
from stylescore.images import Photo, read_photo, with_mask
from stylescore.method.state import PictureState
from stylescore.runs import costs
from stylescore.runs.folder import RunFolder
from stylescore.runs.names import DEFAULT, folder_name
from stylescore.runs.record import Record, is_made_by, read_record, replace_record, to_toml, write_record
from stylescore.runs.resume import require_resumable, require_same, require_same_settings, require_unchanged
from stylescore.storage.texts import is_file
from stylescore_apply.storage.files import sha256

COMMAND = "stylize"
NO_PHOTOS: Mapping[str, Path] = MappingProxyType({})
FREE = (
    *(
        "photo",
        "mask",
        "caption_source",
        "output.*",
        "gif",
        "preview_every",
        "cost",
        "batch.*",
        "run.preset",
        "run.model",
    ),
    *(
        "run.preview_model",
        "run.vae",
        "run.text_encoders",
        "run.control_model",
        "run.style_image",
        "run.styles.*.name",
        "run.embeddings.*.file",
        "run.weights.*.file",
    ),
    *(f"run.execution.{name}" for name in ("device", "memory", "compile", "style_weights")),
)
"""Settings that may change before a run is resumed: those that change its result by rounding only, and the names of
files, whose hashes are compared."""


@dataclass(frozen=True, kw_only=True)
class BatchPlace:
    """Which batch a picture belongs to; its pictures are resumed together, as rounding depends on the batch.

    Attributes:
        key: the same for all pictures of the batch.
        index: of the picture in it.
    """

    key: str
    index: int


@dataclass(frozen=True, kw_only=True)
class StylizeSettings:
    """What `config.toml` holds of a run besides its hashes.

    Attributes:
        photo: path of the source picture.
        mask: path of its mask, if it has one.
        caption_source: where `run.caption` comes from: `--prompt`, the name of a file, or `auto` for a model's words.
        style_prompt: the style prompt, resolved.
        gif: whether an animation of the run is made.
        preview_every: iterations between previews; 0 for none.
        cost: whether time, passes and memory of the run are measured.
        batch: where the picture stands in its batch; `None` for a picture alone.
        output: how the finished picture is written.
        run: the configuration.
    """

    photo: str
    mask: str | None = None
    style_prompt: str
    caption_source: str = ""
    gif: bool = False
    preview_every: int = 0
    cost: bool = False
    batch: BatchPlace | None = None
    output: OutputConfig = field(default_factory=OutputConfig)
    run: RunConfig


StylizeRecord = Record[StylizeSettings]


class PictureFolder(RunFolder):
    """The folder of one photo's run."""

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The result in each format that it may have."""
        return tuple(self.path / f"picture{suffix}" for suffix in SUFFIXES.values())

    @property
    def picture(self) -> Path:
        """The result at the photo's own size; the last file that is written."""
        return next((path for path in self.pictures if path.is_file()), self.pictures[0])

    def picture_as(self, output: OutputConfig) -> Path:
        """The file that the result is written to."""
        return self.path / f"picture{output.suffix}"

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
        written = (*self.pictures, self.model_picture, self.before_after, self.animation, self.path / costs.NAME)
        return (*super().files, *written)

    @property
    def subfolders(self) -> tuple[Path, ...]:
        """Every folder that the run may write in this one."""
        return (self.previews,)

    def clear(self) -> None:
        """Remove all that a run has written but its record, so that it begins again; its lock must be held.

        Raises:
            OutputError: the system refuses.
        """
        self.remove_state()
        for path in self.files:
            path.unlink(missing_ok=True)
        for path in self.subfolders:
            shutil.rmtree(path, ignore_errors=True)

    def preview(self, iteration: int) -> Path:
        """The preview after `iteration` iterations."""
        return self.previews / f"step-{iteration:05d}.png"


@dataclass(frozen=True)
class Job:
    """One photo and the folder of its run."""

    photo: Photo
    folder: PictureFolder
    record: StylizeRecord


def public_record(record: StylizeRecord) -> str:
    """Return the record as TOML for a picture that may be passed on: files by name, without their folders."""
    settings = record.settings
    run = with_base_names(settings.run)
    mask = settings.mask and Path(settings.mask).name
    public = replace(settings, photo=Path(settings.photo).name, mask=mask, run=run, batch=None)
    return to_toml(replace(record, settings=public))


def with_base_names(run: RunConfig) -> RunConfig:
    """Return a configuration whose models and styles are named without their folders."""
    return replace(
        run,
        model=_base_name(run.model),
        style_model=run.style_model and _base_name(run.style_model),
        preview_model=run.preview_model and _base_name(run.preview_model),
        vae=run.vae and _base_name(run.vae),
        text_encoders=run.text_encoders and _base_name(run.text_encoders),
        control_model=run.control_model and _base_name(run.control_model),
        style_image=run.style_image and _base_name(run.style_image),
        weights=tuple(replace(entry, file=_base_name(entry.file)) for entry in run.weights),
        styles=tuple(replace(entry, name=_base_name(entry.name)) for entry in run.styles),
    )


def _base_name(name: str) -> str:
    """Return a path's last part, and any other name unchanged."""
    return Path(name).name if Path(name).is_absolute() else name


@dataclass(frozen=True, kw_only=True)
class Task:
    """One photo that is to be made, before it is opened.

    Attributes:
        photo: its path.
        parent: the folder for its run folder.
        pattern: of the run folder's name, see `stylescore.runs.names`.
        caption: what it shows; `None` takes the run's.
        caption_source: where the caption comes from.
        mask: path of its mask, if it has one.
    """

    photo: Path
    parent: Path
    pattern: str = DEFAULT
    caption: str | None = None
    caption_source: str = ""
    mask: Path | None = None

    def open(self, feather: int | None) -> Photo:
        """Read the photo, with its mask.

        Raises:
            PictureError: one of them cannot be read, or the mask does not fit the photo.
        """
        photo = read_photo(self.photo)
        return photo if self.mask is None else with_mask(photo, self.mask, feather)

    def run(self, run: RunConfig) -> RunConfig:
        """Return a configuration with this photo's caption."""
        return run if self.caption is None else replace(run, caption=self.caption)

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes of its files."""
        mask = {} if self.mask is None else {"mask": sha256(self.mask)}
        return {"photo": sha256(self.photo), **mask}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a run writes, the same for all photos of a call.

    Attributes:
        gif: whether an animation is made.
        preview_every: iterations between previews; 0 for none.
        cost: whether time, passes and memory are measured.
        output: how the finished picture is written.
    """

    gif: bool = False
    preview_every: int = 0
    cost: bool = False
    output: OutputConfig = field(default_factory=OutputConfig)


def make_settings(task: Task, run: RunConfig, written: Written, style_prompt: str) -> StylizeSettings:
    """Return what the record of a photo's run holds."""
    return StylizeSettings(
        photo=str(task.photo.resolve()),
        mask=None if task.mask is None else str(task.mask.resolve()),
        style_prompt=style_prompt,
        caption_source=task.caption_source,
        run=task.run(run),
        gif=written.gif,
        preview_every=written.preview_every,
        cost=written.cost,
        output=written.output,
    )


def make_jobs(
    stylizer: Stylizer, tasks: Sequence[Task], photos: Sequence[Photo], written: Written, key: str | None = None
) -> list[Job]:
    """Make the run folders of a batch, each in the parent of its photo.

    Args:
        stylizer: the loaded configuration.
        tasks: what is to be made.
        photos: the opened photos of the tasks.
        written: what the runs write.
        key: of the batch; by default a new one, and none for a picture alone.

    Raises:
        ModelError: as for `make_job`.
    """
    chosen = key or (secrets.token_hex(4) if len(photos) > 1 else None)
    places = [None if chosen is None else BatchPlace(key=chosen, index=index) for index in range(len(photos))]
    return [
        make_job(stylizer, task, photo, written, batch=place)
        for task, photo, place in zip(tasks, photos, places, strict=True)
    ]


def make_job(stylizer: Stylizer, task: Task, photo: Photo, written: Written, batch: BatchPlace | None = None) -> Job:
    """Make the run folder of a photo, with its record.

    Raises:
        ModelError: there will be previews, and the preview model cannot be used; no folder is made then.
    """
    run = stylizer.sources.apply(resolve_style_weights(stylizer))
    settings = replace(make_settings(task, run, written, stylizer.style_prompt), batch=batch)
    record = Record(command=COMMAND, hashes={**task.hashes, **model_hashes(stylizer.hashes)}, settings=settings)
    _require_previews(settings, stylizer)
    name = folder_name(task.pattern, task.photo, stylizer.run)
    folder = PictureFolder.new(task.parent, name, lambda folder: write_record(folder, record))
    return Job(photo, folder, record)


def resolve_style_weights(stylizer: Stylizer) -> RunConfig:
    """Return the run with the place of its style weights decided, so that a resumed run decides the same."""
    run = stylizer.resolved_run
    if run.style_model:
        return run
    chosen: StyleWeights = "merged" if stylizer.style_has_network else "adapter"
    return replace(run, execution=replace(run.execution, style_weights=chosen))


def model_hashes(hashes: Mapping[str, Any]) -> dict[str, str | tuple[str, ...]]:
    """Return the hashes of models and styles by what they are; there is none for a model that is not used."""
    return {name.removesuffix("_sha256"): value for name, value in hashes.items() if value}


def _require_previews(settings: StylizeSettings, stylizer: Stylizer) -> None:
    """Raise `ModelError` if the run makes previews or an animation and its preview model cannot be used."""
    if settings.gif or settings.preview_every:
        _ = stylizer.preview_codec


def read_job(path: Path, photos: Mapping[str, Path] = NO_PHOTOS) -> SavedJob:
    """Read the folder of an interrupted run: its photo, its record, and its states if any were saved.

    Args:
        path: of the folder.
        photos: photos by their hashes, one of which may be that of the run, if it was moved.

    Raises:
        ConfigError: it is not the folder of a run that can be resumed, or photo or settings changed.
        OutputError: something stands in the way of what the run would write.
        PictureError: the photo cannot be read.
    """
    folder = PictureFolder(path)
    record = read_record(folder, COMMAND, StylizeSettings)
    states = (folder.load_state(PictureState), folder.load_staged_state(PictureState))
    require_resumable(
        folder,
        0 if states[0] is None else states[0].iteration,
        finished=is_finished(folder),
        hint=f"its picture is {folder.picture}",
    )
    for state in states:
        require_same_settings(record, state, FREE)
    record = _with_moved_photo(folder, record, photos)
    task = task_of(folder, record)
    _require_photo(folder, task)
    photo = task.open(record.settings.run.mask_feather)
    for name, digest in task.hashes.items():
        what = record.settings.photo if name == "photo" else record.settings.mask
        require_same(f"{name} {what!r}", record.hashes.get(name), digest)
    return SavedJob(Job(photo, folder, record), *states)


def _require_photo(folder: PictureFolder, task: Task) -> None:
    """Raise `PictureError` if a run's photo is not at its place any more."""
    if not is_file(task.photo):
        raise PictureError(
            f"there is no file {str(task.photo)!r}, the photo of this run",
            hint=f"if it was moved: stylescore {COMMAND} --resume {shlex.quote(str(folder.path))} PHOTO",
        )


def task_of(folder: PictureFolder, record: StylizeRecord) -> Task:
    """Return what the run of a folder makes."""
    settings = record.settings
    mask = None if settings.mask is None else Path(settings.mask)
    return Task(photo=Path(settings.photo), parent=folder.path.parent, caption=settings.run.caption, mask=mask)


def _with_moved_photo(folder: PictureFolder, record: StylizeRecord, photos: Mapping[str, Path]) -> StylizeRecord:
    """Return the record with the photo's new path if one of the photos is its photo; the path is written down."""
    digest = record.hashes.get("photo")
    moved = photos.get(digest) if isinstance(digest, str) else None
    if moved is None or str(moved.resolve()) == record.settings.photo:
        return record
    changed = replace(record, settings=replace(record.settings, photo=str(moved.resolve())))
    replace_record(folder, changed)
    return changed


def is_finished(folder: PictureFolder) -> bool:
    """Return whether a run's results are there and nothing of its state is left."""
    return folder.picture.is_file() and not folder.state_file.is_file() and not folder.staged_state_file.is_file()


@dataclass(frozen=True)
class SavedJob:
    """An unfinished run as it was found.

    Attributes:
        job: the run.
        state: the saved state; `None` if there is none, so that the run begins again.
        staged: a later one, of a batch that was killed while it saved its states.
    """

    job: Job
    state: PictureState | None
    staged: PictureState | None


def has_runs(parent: Path) -> bool:
    """Return whether one of a folder's subfolders is that of a run."""
    return bool(_runs_in(parent))


def _runs_in(parent: Path) -> list[PictureFolder]:
    """Return the runs among a folder's subfolders; hidden ones are not complete yet."""
    paths = sorted(path.parent for path in parent.glob("*/config.toml") if not path.parent.name.startswith("."))
    return [folder for folder in map(PictureFolder, paths) if is_made_by(folder, COMMAND)]


def find_unfinished(parent: Path) -> list[list[PictureFolder]]:
    """Return the unfinished runs among a folder's subfolders, batch by batch; folders that are no runs are left out.

    Raises:
        ConfigError: the record of a run cannot be read.
    """
    batches: dict[str, list[tuple[int, PictureFolder]]] = {}
    for folder in _runs_in(parent):
        if is_finished(folder):
            continue
        place = read_record(folder, COMMAND, StylizeSettings).settings.batch
        key, index = (folder.path.name, 0) if place is None else (f"/{place.key}", place.index)
        batches.setdefault(key, []).append((index, folder))
    return [[folder for _, folder in sorted(batch, key=lambda entry: entry[0])] for batch in batches.values()]


def common_states(saved: Sequence[SavedJob]) -> list[PictureState] | None:
    """Return states of one iteration, one for each picture of a batch; `None` if the batch begins again.

    A batch saves its states one after another, the earlier ones are kept until all are written: so there is an
    iteration that every picture has.

    Raises:
        ConfigError: there is none, as the pictures were resumed one by one.
    """
    every = [{-1 if state is None else state.iteration: state for state in _choices(job)} for job in saved]
    common = set(every[0]).intersection(*every[1:])
    if not common:
        raise ConfigError(
            "the pictures of a batch are at different iterations", hint="resume them one by one, with their own folders"
        )
    states = [states[max(common)] for states in every]
    found = [state for state in states if state is not None]
    return found if len(found) == len(states) else None


def _choices(saved: SavedJob) -> list[PictureState | None]:
    """Return the states that a run can be resumed from."""
    return [saved.state] if saved.staged is None else [saved.state, saved.staged]


def require_same_models(job: Job, stylizer: Stylizer) -> None:
    """Raise one of our errors if models or styles changed after a run began, or its preview model cannot be used."""
    require_unchanged(job.record, model_hashes(stylizer.hashes))
    _require_previews(job.record.settings, stylizer)
