"""Whether one method is better than another beyond chance: differences of the same photos' figures."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from stylescore.evaluation.catalogue import METRICS, Sampling, Score
from stylescore.evaluation.pairs import Pairing
from stylescore.metrics.intervals import mean_interval, sign_flip_test

Photos = Mapping[str, float]
"""A figure of each photo, by its base name."""


def compare_to_first(
    scores: Mapping[str, Mapping[str, Score]], folders: Mapping[str, Pairing], sampling: Sampling
) -> dict[str, dict[str, Any]]:
    """Return the differences of each folder but the first to the first, see `compare_photos`."""
    return compare_photos(by_photo(scores, folders), sampling)


def compare_photos(figures: Mapping[str, Mapping[str, Photos]], sampling: Sampling) -> dict[str, dict[str, Any]]:
    """Return, for each folder but the first, the mean difference to the first of every figure that photos have.

    Only photos that both folders have are compared. The interval is that of the mean of the differences, which is
    narrower than the two intervals suggest, as both share the photos; `p` is the probability of such a difference if
    the two did not differ, see `sign_flip_test`.

    Args:
        figures: by folder and metric.
        sampling: of the intervals.
    """
    first, *others = figures
    return {
        other: {
            metric: _difference(metric, figures[first][metric], values, sampling)
            for metric, values in figures[other].items()
            if values.keys() & figures[first].get(metric, {}).keys()
        }
        for other in others
    }


def by_photo(
    scores: Mapping[str, Mapping[str, Score]], folders: Mapping[str, Pairing]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures that photos have by folder, metric and photo; a photo with several results has their mean."""
    return {
        name: {metric: _photos(score, folders[name]) for metric, score in found.items() if score.values}
        for name, found in scores.items()
    }


def _photos(score: Score, pairing: Pairing) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for pair, value in zip(pairing.pairs, score.values, strict=True):
        found.setdefault(pair.name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def _difference(metric: str, first: Photos, second: Photos, sampling: Sampling) -> dict[str, Any]:
    shared = sorted(first.keys() & second.keys())
    values = torch.tensor([second[name] - first[name] for name in shared], dtype=torch.float64)
    interval = mean_interval(values, sampling.draws, sampling.rng()) if sampling.draws else None
    mean = float(values.mean())
    return {
        "value": mean,
        "interval": None if interval is None else [interval.low, interval.high],
        "p": sign_flip_test(values, sampling.rng()),
        "photos": len(shared),
        "is_better": (mean < 0) == (METRICS[metric].better == "lower"),
    }
