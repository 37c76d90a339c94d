"""The job of `stylize`: one photo, the folder of its run, and its record, made anew or read to resume."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.execution import StyleWeights
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError
from stylescore.images import Photo, read_photo
from stylescore.method.state import PictureState
from stylescore.runs.folder import RunFolder
from stylescore.runs.record import Record, is_made_by, read_record, to_toml, write_record
from stylescore.runs.resume import require_resumable, require_same, require_same_settings, require_unchanged
from stylescore_apply.storage.files import sha256

COMMAND = "stylize"
LONGEST_NAME = 200
"""Bytes of a folder's name; file systems accept 255, and a number may be added."""
FREE = (
    *("photo", "gif", "preview_every", "batch.*", "run.preset", "run.model", "run.preview_model", "run.styles.*.name"),
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
        style_prompt: the style prompt, resolved.
        gif: whether an animation of the run is made.
        preview_every: iterations between previews; 0 for none.
        batch: where the picture stands in its batch; `None` for a picture alone.
        run: the configuration.
    """

    photo: str
    style_prompt: str
    gif: bool = False
    preview_every: int = 0
    batch: BatchPlace | None = None
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


def public_record(record: StylizeRecord) -> str:
    """Return the record as TOML for a picture that may be passed on: files by name, without their folders."""
    settings = record.settings
    run = _with_base_names(settings.run)
    public = replace(settings, photo=Path(settings.photo).name, run=run, batch=None)
    return to_toml(replace(record, settings=public))


def _with_base_names(run: RunConfig) -> RunConfig:
    """Return a configuration whose models and styles are named without their folders."""
    return replace(
        run,
        model=_base_name(run.model),
        style_model=run.style_model and _base_name(run.style_model),
        preview_model=run.preview_model and _base_name(run.preview_model),
        styles=tuple(replace(entry, name=_base_name(entry.name)) for entry in run.styles),
    )


def _base_name(name: str) -> str:
    """Return a path's last part, and any other name unchanged."""
    return Path(name).name if Path(name).is_absolute() else name


def make_jobs(
    stylizer: Stylizer, photos: Sequence[Photo], parents: Sequence[Path], *, gif: bool, preview_every: int
) -> list[Job]:
    """Make the run folders of a batch, each in the parent of its photo.

    Raises:
        ModelError: as for `make_job`.
    """
    key = secrets.token_hex(4)
    places = [BatchPlace(key=key, index=index) if len(photos) > 1 else None for index in range(len(photos))]
    return [
        make_job(stylizer, photo, parent, gif=gif, preview_every=preview_every, batch=place)
        for photo, parent, place in zip(photos, parents, places, strict=True)
    ]


def make_job(
    stylizer: Stylizer, photo: Photo, parent: Path, *, gif: bool, preview_every: int, batch: BatchPlace | None = None
) -> Job:
    """Make the run folder of a photo, with its record.

    Raises:
        ModelError: there will be previews, and the preview model cannot be used; no folder is made then.
    """
    settings = StylizeSettings(
        photo=str(photo.path.resolve()),
        style_prompt=stylizer.style_prompt,
        run=stylizer.sources.apply(resolve_style_weights(stylizer)),
        gif=gif,
        preview_every=preview_every,
        batch=batch,
    )
    hashes = {"photo": sha256(photo.path), **_model_hashes(stylizer)}
    record = Record(command=COMMAND, hashes=hashes, settings=settings)
    _require_previews(settings, stylizer)
    name = _folder_name(photo.path, stylizer.run)
    folder = PictureFolder.new(parent, name, lambda folder: write_record(folder, record))
    return Job(photo, folder, record)


def resolve_style_weights(stylizer: Stylizer) -> RunConfig:
    """Return the run with the place of its style weights decided, so that a resumed run decides the same."""
    run = stylizer.run
    if run.style_model:
        return run
    chosen: StyleWeights = "merged" if stylizer.style_has_network else "adapter"
    return replace(run, execution=replace(run.execution, style_weights=chosen))


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


def read_job(path: Path) -> SavedJob:
    """Read the folder of an interrupted run: its photo, its record, and its states if any were saved.

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
    photo = read_photo(record.settings.photo)
    require_same(f"photo {record.settings.photo!r}", record.hashes.get("photo"), sha256(photo.path))
    return SavedJob(Job(photo, folder, record), *states)


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
    require_unchanged(job.record, _model_hashes(stylizer))
    _require_previews(job.record.settings, stylizer)
