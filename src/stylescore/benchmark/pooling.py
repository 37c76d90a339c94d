"""The figures of a benchmark over all its styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from stylescore.benchmark.grid import Row
from stylescore.benchmark.results import StyleResults
from stylescore.evaluation.catalogue import Sampling, Score, mean_score
from stylescore.evaluation.differences import Photos, compare_photos
from stylescore.evaluation.run import Report

ALL_STYLES = "all styles"


def pool_styles(every: Sequence[StyleResults], sampling: Sampling) -> StyleResults | None:
    """Return the figures over all styles, or `None` if there is one style alone or no row that all of them have.

    A figure that photos have is, for each photo, the mean over the styles. So the photos stay what is drawn by chance:
    pictures of one photo in several styles are not independent, and do not make an interval narrower as more photos
    would. A distance between sets is the mean of the styles' distances, without an interval. Where an ablation changes
    nothing in a style, the figures of the row that it equals there are taken.

    Args:
        every: the results of each style.
        sampling: of the intervals.
    """
    own = [{row.key: key for row in _rows(every) if (key := _own_key(results, row)) is not None} for results in every]
    rows = [row for row in _rows(every) if all(row.key in keys for keys in own)]
    if len(every) < 2 or not rows:
        return None
    taken = list(zip(every, own, strict=True))
    photos = {row.key: _photos([results.photos.get(keys[row.key], {}) for results, keys in taken]) for row in rows}
    scores = {
        row.key: {
            **_of_sets([results.report.scores[keys[row.key]] for results, keys in taken]),
            **{metric: _score(values, sampling) for metric, values in photos[row.key].items()},
        }
        for row in rows
    }
    report = Report(
        scores=scores,
        skipped=every[0].report.skipped,
        weights=every[0].report.weights,
        photos={row.key: sum(results.report.photos[keys[row.key]] for results, keys in taken) for row in rows},
        style=sum(results.report.style for results in every),
    )
    return StyleResults(
        style=ALL_STYLES,
        rows=rows,
        pictures=[picture for results in every for picture in results.pictures],
        report=report,
        metrics={name: metric for results in every for name, metric in results.metrics.items()},
        differences=compare_photos(photos, sampling),
        photos=photos,
    )


def _rows(every: Sequence[StyleResults]) -> list[Row]:
    """Return the rows of any style; those of the style that has most come first."""
    by_count = sorted(every, key=lambda results: -len(results.rows))
    return list({row.key: row for results in by_count for row in results.rows}.values())


def _own_key(results: StyleResults, row: Row) -> str | None:
    """Return the key that a row's figures have in a style, or `None` if it has none."""
    same = results.same.get(row.variant.key)
    key = row.key if same is None else f"{same}-{row.content:g}"
    return key if key in results.report.scores else None


def _photos(every: Sequence[Mapping[str, Photos]]) -> dict[str, dict[str, float]]:
    """Return the mean over the styles of every metric that all of them have, for the photos that all of them have."""
    metrics = [name for name in every[0] if all(name in found for found in every)]
    means = {metric: _means([found[metric] for found in every]) for metric in metrics}
    return {metric: values for metric, values in means.items() if values}


def _means(every: Sequence[Photos]) -> dict[str, float]:
    shared = set.intersection(*map(set, every))
    return {name: fmean(found[name] for found in every) for name in sorted(shared)}


def _score(values: Photos, sampling: Sampling) -> Score:
    return mean_score(torch.tensor(list(values.values()), dtype=torch.float64), sampling)


def _of_sets(every: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Return the mean over the styles of every figure that photos do not have."""
    names = [name for name in every[0] if all(name in scores and not scores[name].values for scores in every)]
    return {name: Score(fmean(scores[name].value for scores in every), None) for name in names}
