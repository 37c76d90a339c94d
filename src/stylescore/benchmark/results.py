"""What a benchmark found: pictures, figures and costs of one style, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from stylescore.benchmark.generators import Applied
from stylescore.benchmark.grid import Row
from stylescore.evaluation.catalogue import Metric, Score
from stylescore.evaluation.differences import Photos
from stylescore.evaluation.pairs import Pairing, Result, make_pairs
from stylescore.evaluation.run import Report
from stylescore.runs.costs import Cost, read_cost
from stylescore.runs.job import COMMAND, StylizeSettings, with_base_names
from stylescore.runs.outcomes import Outcome
from stylescore.runs.record import flat_settings, read_record


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A finished picture.

    Attributes:
        row: key of its row.
        photo: the photo it was made from.
        seed: of its run.
        path: the picture.
        cost: of its run, if that is known.
        settings: of its run, by dotted names.
    """

    row: str
    photo: Path
    seed: int
    path: Path
    cost: Cost | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A picture that could not be made.

    Attributes:
        row: key of its row.
        photo: the photo.
        seed: of its run.
        reason: why.
    """

    row: str
    photo: Path
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class MeanCost:
    """What a picture of a row cost on average.

    Attributes:
        seconds: mean time.
        passes: mean number of samples through the denoising network, with and without gradient.
        memory: largest memory in bytes.
        device: where.
    """

    seconds: float
    passes: float
    memory: int | None
    device: str


@dataclass(frozen=True, kw_only=True)
class StyleResults:
    """The results of one style.

    Attributes:
        style: its name.
        rows: the rows that have pictures, the first of which the others are compared with.
        pictures: all pictures.
        report: the figures, by row and metric.
        metrics: those that were computed.
        differences: of each row to the first, photo by photo.
        photos: the figures that photos have, by row, metric and photo.
        same: rows that were left out as they equal another, with its key.
        hashes: of the model and the style.
    """

    style: str
    rows: Sequence[Row]
    pictures: Sequence[Picture]
    report: Report
    metrics: Mapping[str, Metric]
    differences: Mapping[str, Mapping[str, Any]]
    photos: Mapping[str, Mapping[str, Photos]] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def central(self) -> list[Row]:
        """The rows at the central stand of the knob."""
        return [row for row in self.rows if row.is_central]

    def score(self, row: Row, metric: str) -> Score | None:
        """Return a figure, if it is there."""
        return self.report.scores.get(row.key, {}).get(metric)

    def of(self, row: Row) -> list[Picture]:
        """Return the pictures of a row."""
        return [picture for picture in self.pictures if picture.row == row.key]

    def cost(self, row: Row) -> MeanCost | None:
        """Return what a picture of a row cost, as far as their runs say."""
        costs = [picture.cost for picture in self.of(row) if picture.cost is not None]
        if not costs:
            return None
        memory = [cost.memory for cost in costs if cost.memory is not None]
        return MeanCost(
            seconds=fmean(cost.seconds for cost in costs),
            passes=fmean(cost.forward_passes + cost.trained_passes for cost in costs),
            memory=max(memory, default=None),
            device=", ".join(sorted({cost.device for cost in costs})),
        )


@dataclass
class Found:
    """What became of a grid.

    Attributes:
        captions: of the photos, by base name; empty where there is none.
        pictures: by style.
        failures: pictures that could not be made.
        photos: with their hashes.
        style_prompts: by style, as resolved.
        hashes: of models and style, by style.
    """

    captions: Mapping[str, str]
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    photos: dict[Path, str] = field(default_factory=dict)
    style_prompts: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, style: str) -> list[Picture]:
        """Return the pictures of a style."""
        return self.pictures.get(style, [])

    @property
    def total(self) -> int:
        """Number of pictures, made or not."""
        return len(self.failures) + sum(map(len, self.pictures.values()))

    def add(self, outcome: Outcome, style: str, row: Row, seed: int) -> None:
        """Add what became of a photo."""
        if outcome.error is not None or outcome.folder is None:
            failure = Failure(row=row.key, photo=outcome.photo, seed=seed, reason=str(outcome.error))
            self.failures.append(failure)
            return
        folder, record = outcome.folder, read_record(outcome.folder, COMMAND, StylizeSettings)
        settings = record.settings
        self.photos.setdefault(outcome.photo, str(record.hashes["photo"]))
        self.style_prompts.setdefault(style, settings.style_prompt)
        self.hashes.setdefault(style, {name: value for name, value in record.hashes.items() if name != "photo"})
        picture = Picture(
            row=row.key,
            photo=outcome.photo,
            seed=seed,
            path=folder.picture,
            cost=read_cost(folder.path),
            settings=flat_settings(replace(record, settings=replace(settings, run=with_base_names(settings.run)))),
        )
        self.pictures.setdefault(style, []).append(picture)

    def add_applied(self, applied: Applied, style: str, row: Row, seed: int, generator: Path) -> None:
        """Add what became of a photo that a generator was applied to."""
        if applied.error is not None:
            self.failures.append(Failure(row=row.key, photo=applied.photo, seed=seed, reason=str(applied.error)))
            return
        self.photos.setdefault(applied.photo, applied.hashes["photo"])
        settings = {"run.generator": generator.name, "run.generator_sha256": applied.hashes["generator"]}
        picture = Picture(
            row=row.key,
            photo=applied.photo,
            seed=seed,
            path=applied.folder.picture,
            cost=applied.cost,
            settings={**settings, "run.seed": seed},
        )
        self.pictures.setdefault(style, []).append(picture)


def pair_rows(rows: Sequence[Row], pictures: Sequence[Picture]) -> dict[str, Pairing]:
    """Pair every row's pictures with their photos; only photos that all rows have, so that their numbers are equal.

    A photo with several seeds has several pictures.
    """
    made = {row.key: [picture for picture in pictures if picture.row == row.key] for row in rows}
    shared = _shared_runs([{(picture.photo, picture.seed) for picture in part} for part in made.values()])
    return {key: _pair([each for each in part if (each.photo, each.seed) in shared]) for key, part in made.items()}


def _shared_runs(every: Sequence[set[tuple[Path, int]]]) -> set[tuple[Path, int]]:
    return set.intersection(*every) if every else set()


def _pair(pictures: Sequence[Picture]) -> Pairing:
    photos = list(dict.fromkeys(picture.photo for picture in pictures))
    if not photos:
        return Pairing((), (), ())
    return make_pairs(photos, [Result(each.path, each.path.parent.name, each.photo.stem) for each in pictures])
