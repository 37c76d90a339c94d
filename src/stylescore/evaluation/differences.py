"""Whether one method is better than another beyond chance: differences of the same photos' figures."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch

from stylescore.evaluation.catalogue import METRICS, Sampling, Score
from stylescore.evaluation.pairs import Pairing
from stylescore.metrics.intervals import mean_interval, sign_flip_test


def compare_to_first(
    scores: Mapping[str, Mapping[str, Score]], folders: Mapping[str, Pairing], sampling: Sampling
) -> dict[str, dict[str, Any]]:
    """Return, for each folder but the first, the mean difference to the first of every figure that photos have.

    Only photos that both folders have are compared; a photo with several results counts with their mean. The interval
    is that of the mean of the differences, which is narrower than the two intervals suggest, as both share the photos;
    `p` is the probability of such a difference if the two did not differ, see `sign_flip_test`.
    """
    names = list(scores)
    return {
        other: {
            metric: _difference(metric, first, second, sampling)
            for metric in scores[other]
            if (first := _by_photo(scores[names[0]].get(metric), folders[names[0]]))
            and (second := _by_photo(scores[other][metric], folders[other]))
            and first.keys() & second.keys()
        }
        for other in names[1:]
    }


def _by_photo(score: Score | None, pairing: Pairing) -> dict[str, float]:
    """Return the figure of every photo; empty if the metric has none."""
    if score is None or not score.values:
        return {}
    found: dict[str, list[float]] = {}
    for pair, value in zip(pairing.pairs, score.values, strict=True):
        found.setdefault(pair.name, []).append(value)
    return {name: fmean(values) for name, values in found.items()}


def _difference(metric: str, first: Mapping[str, float], second: Mapping[str, float], sampling: Sampling) -> Any:
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
