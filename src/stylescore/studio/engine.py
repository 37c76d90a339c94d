"""Computes one job with the models loaded; the only module of the studio that imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from stylescore.assembly.one_step import place_one_step
from stylescore.assembly.stylizer import Stylizer
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError
from stylescore.images import Photo, read_photo, save_png
from stylescore.method.fit import Fitting, Iteration
from stylescore.method.types import Map
from stylescore.runs.job import (
    PictureFolder,
    SavedJob,
    Written,
    common_states,
    is_finished,
    make_job,
    public_record,
    read_job,
    require_same_models,
)
from stylescore.runs.job import Task as PhotoTask
from stylescore.runs.lock import hold
from stylescore.runs.runner import Batch, SavedResult
from stylescore.studio.drafts import save_draft
from stylescore.studio.jobs import Status, StopRequest
from stylescore.studio.settings import RECORD_KEY
from stylescore.studio.uploads import save_views
from stylescore_apply.storage.files import atomic

SECONDS_BETWEEN_PREVIEWS = 1.0
PREVIEW_COST = 0.15
"""Largest part of the time that decoding previews may take."""
PREVIEW_SIDE = 768
MAP_COLOUR = (30, 110, 255)
LARGEST_MAP_ALPHA = 180
FLAT = 1e-3
"""A map whose values differ by less is the same everywhere, and is not shown."""

Report = Callable[..., StopRequest]
"""Stores fields of a job, and returns how the user wants it to end."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a generator that is a LoRA makes of a photo.

    Attributes:
        job: id of the job that it is a draft of.
        photo: file of the photo.
        generator: the LoRA's file.
        place: the job's folder.
    """

    job: str
    photo: Path
    generator: Path
    place: Path


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an engine is given of a job.

    Attributes:
        run: the configuration.
        photo: file of the photo.
        place: the job's folder.
        folder: name of the run's folder in it, if the run was begun before.
        mask: file of the photo's mask, if it has one.
        drafts: what is made before the run begins.
    """

    run: RunConfig
    photo: Path
    place: Path
    folder: str | None
    mask: Path | None = None
    drafts: Sequence[Draft] = ()


@dataclass
class StylizeEngine:
    """Stylizes photos, and keeps the models of the last run loaded."""

    _stylizer: Stylizer | None = field(default=None, init=False)

    def run(self, task: Task, report: Report) -> Status:
        """Make a picture, or go on with it, until it is done or the user wants it to end.

        Returns:
            done; stopped, with the picture as it stands; or cancelled.

        Raises:
            StylescoreError: the run failed.
        """
        task.place.mkdir(exist_ok=True, mode=0o700)
        begun = None if task.folder is None else PictureFolder(task.place / task.folder)
        if begun is not None and is_finished(begun):  # killed between the picture and the end of the job
            return _keep_finished(begun, task.place)
        saved = None if begun is None else read_job(begun.path)
        report(stage="loading the model")
        stylizer = self._load(task.run if saved is None else _recorded_run(saved, task.run))
        if task.drafts:
            report(stage="making a draft")
        for draft in task.drafts:
            if _save_draft(stylizer, draft):
                report(drafts=[draft.job])
        report(stage="preparing the photo")
        if saved is None:
            photo = PhotoTask(photo=task.photo, parent=task.place, mask=task.mask)
            job, states = make_job(stylizer, photo, photo.open(task.run.mask_feather), Written()), None
        else:
            job, states = saved.job, common_states([saved])
            require_same_models(job, stylizer)
        report(folder=job.folder.path.name)
        with hold(job.folder.path):
            batch = Batch.start(stylizer, [job], states)
            return _Progress(stylizer, batch, task.place, report).follow()

    def _load(self, run: RunConfig) -> Stylizer:
        """Return a stylizer for a run, on the networks that are loaded if it can use them."""
        if self._stylizer is not None:
            try:
                self._stylizer = self._stylizer.with_run(run)
                return self._stylizer
            except ConfigError:
                self._stylizer.close()
                self._stylizer = None
        self._stylizer = Stylizer(run)
        return self._stylizer


def _save_draft(stylizer: Stylizer, draft: Draft) -> bool:
    """Write a draft; return whether it could be made, as the run needs none."""
    try:
        draft.place.mkdir(exist_ok=True, mode=0o700)
        network = place_one_step(draft.generator, stylizer)
        save_draft(network, read_photo(draft.photo).picture, draft.place / "draft.webp")
    except Exception:  # a run without a draft is as good
        traceback.print_exc()
        return False
    return True


def _recorded_run(saved: SavedJob, now: RunConfig) -> RunConfig:
    """Return the run as it was begun, on the device of this worker."""
    run = saved.job.record.settings.run
    return replace(run, execution=replace(run.execution, device=now.execution.device))


def _keep_finished(folder: PictureFolder, place: Path) -> Status:
    with Image.open(folder.picture) as picture:
        save_views(picture, place)
    return "done"


@dataclass
class _Progress:
    """Follows one run: reports, makes previews, and ends it where the user wants."""

    stylizer: Stylizer
    batch: Batch
    place: Path
    report: Report
    previews: int = 0
    shown: float = 0.0
    cost: float = 0.0
    time_left: TimeLeft = field(init=False)

    def __post_init__(self) -> None:
        photo = self.batch.jobs[0].photo
        size = self.stylizer.working_size(photo)
        self.time_left = TimeLeft.of(self.batch.fitting, _area(size) / _area(self.stylizer.coarse_size(size)))

    def follow(self) -> Status:
        """Run the batch; return how it ended."""
        fitting = self.batch.fitting
        self.report(stage=None, iteration=fitting.iteration, total=fitting.iterations)
        with closing(self.batch.run()) as events:
            for event in events:
                if isinstance(event, SavedResult):
                    save_views(event.result.picture, self.place)
                    remove_stopped(self.place)
                    return "done"
                requested = self._tell(event)
                if requested and event.index + 1 < fitting.iterations:
                    break
        return self._stop(requested)

    def _tell(self, iteration: Iteration) -> StopRequest:
        """Report an iteration; return how the user wants it to end."""
        done = iteration.index + 1
        fields: dict[str, Any] = {"iteration": done, "seconds_left": self.time_left.after(done)}
        last = done == self.batch.fitting.iterations
        if not last and time.monotonic() - self.shown > max(SECONDS_BETWEEN_PREVIEWS, self.cost / PREVIEW_COST):
            fields |= {"preview": self._save_preview(iteration)}
        if iteration.index == 0 or last:
            fields |= {"relevance": save_map(iteration.step.relevance[:1], self.batch.jobs[0].photo, self.place)}
        if last:
            fields |= {"stage": "finishing"}
        return self.report(**fields)

    def _save_preview(self, iteration: Iteration) -> int:
        """Write the picture as it stands and return the number of this preview."""
        begun = time.monotonic()
        picture = self.stylizer.preview(self.batch.fitting, 0)
        picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS)
        with atomic(self.place / "preview.webp") as temporary:
            picture.save(temporary, format="WEBP", quality=85, method=2)
        self.shown = time.monotonic()
        self.cost = self.shown - begun
        self.previews = iteration.index + 1
        return self.previews

    def _stop(self, requested: StopRequest) -> Status:
        """Save the picture as it stands if that is requested; the run's state is saved in both cases."""
        if requested == "cancel":
            return "cancelled"
        job = self.batch.jobs[0]
        fitting = self.batch.fitting
        result = self.stylizer.result(fitting, 0, job.photo)
        texts = {
            RECORD_KEY: public_record(job.record),
            f"{RECORD_KEY}-stopped": f"after {fitting.iteration} of {fitting.iterations} iterations",
        }
        save_png(result.picture, stopped_picture(self.place), texts)
        save_views(result.picture, self.place)
        return "stopped"


@dataclass
class TimeLeft:
    """Estimates the time left of a run whose last iterations, at the larger size, take longer.

    Attributes:
        total: iterations of the run.
        larger_from: iteration from which the picture has its larger size; `total` if it never has.
        ratio: pixels of the larger size to those before.
    """

    total: int
    larger_from: int
    ratio: float
    _begun: float = field(default_factory=time.monotonic)
    _mean: float | None = None

    @classmethod
    def of(cls, fitting: Fitting, ratio: float) -> TimeLeft:
        """Return the time_left of a run as it begins or goes on."""
        growth = fitting.growth
        return cls(fitting.iterations, fitting.iterations if growth is None else growth.at, ratio)

    def after(self, done: int) -> float:
        """Return the seconds left after so many iterations, the last of which has just ended."""
        now = time.monotonic()
        cost = (now - self._begun) / self._weight(done - 1)
        self._begun = now
        self._mean = cost if self._mean is None else 0.7 * self._mean + 0.3 * cost
        return self._mean * sum(self._weight(index) for index in range(done, self.total))

    def _weight(self, index: int) -> float:
        return self.ratio if index >= self.larger_from else 1.0


def stopped_picture(place: Path) -> Path:
    """Return the file of the picture of a run that was stopped and kept."""
    return place / "stopped.png"


def remove_stopped(place: Path) -> None:
    """Remove the picture of the stopped run, now that it is finished."""
    stopped_picture(place).unlink(missing_ok=True)


def save_map(relevance: Map, photo: Photo, place: Path) -> tuple[float, float] | None:
    """Write a relevance map as a coloured layer, clear where it is least and opaque where it is largest.

    Args:
        relevance: of one picture, [1, 1, height, width] in 0..1.
        photo: the photo it is laid on.
        place: the job's folder.

    Returns:
        These two values; `None` if the map is the same everywhere.
    """
    low, high = float(relevance.min()), float(relevance.max())
    if high - low < FLAT:
        return None
    stretched = (relevance[0, 0].float() - low) / (high - low)
    alpha = Image.fromarray((stretched * LARGEST_MAP_ALPHA).round().byte().cpu().numpy())
    size = photo.picture.size
    scale = min(1.0, PREVIEW_SIDE / max(size))
    wide = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    layer = Image.new("RGB", wide, MAP_COLOUR)
    layer.putalpha(alpha.resize(wide, Image.Resampling.BILINEAR))
    with atomic(place / "relevance.png") as temporary:
        layer.save(temporary, format="PNG")
    return low, high


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
