"""Figures for a method's pictures in a style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

import numpy as np
import torch
from bundled_model.pictures import to_tensor
from torch import Tensor

from stylescore.metrics import (
    StyleClassifier,
    clipped_fraction,
    frechet_distance,
    grain,
    grid_energy,
    kernel_distance,
    principal_axes,
)
from stylescore.metrics.frechet import Axes

AXES = 32
"""Fewer than the 40 test pictures, so that their covariance has full rank."""
BATCH = 8
PHOTO = "photo"
LEAST_GRAIN = 0.1
"""In grey levels; less than rounding leaves counts as this, so that a flat picture has a figure."""
NO_GRID = 1.0
"""Of a style without one. Flat cells as wide as a latent have less, which is asked of no result."""

Figures = dict[str, float | None]
Network = Callable[..., Tensor]


@torch.no_grad()
def in_batches(network: Network, *pictures: np.ndarray) -> Tensor:
    """Return what a network says about pictures, or pairs of them, a few at a time."""
    firsts = range(0, len(pictures[0]), BATCH)
    return torch.cat([network(*(to_tensor(p[n : n + BATCH]) for p in pictures)) for n in firsts])


@dataclass(frozen=True)
class Artefacts:
    """What the eye sees in a set of pictures, the mean over them.

    Attributes:
        clipped: share of channel values at an end.
        grid: energy at the latent grid's frequencies relative to their surroundings.
        grain: in grey levels, at least `LEAST_GRAIN`.
    """

    clipped: float
    grid: float
    grain: float

    @classmethod
    def of(cls, pictures: np.ndarray) -> Artefacts:
        """Measure pictures, uint8 [pictures, height, width, 3]."""
        pixels = torch.from_numpy(np.ascontiguousarray(pictures))
        clipped, grid, grains = (float(f(pixels).mean()) for f in (clipped_fraction, grid_energy, grain))
        return cls(clipped, grid, max(grains, LEAST_GRAIN))

    def beside(self, references: Artefacts) -> Figures:
        """Return what is too much by the measure of the style's own pictures; 0 is best."""
        return {
            "overshoot": max(0.0, self.clipped - references.clipped),
            "grid": max(0.0, log2(self.grid / max(references.grid, NO_GRID))),
            "grain": abs(log2(self.grain / references.grain)),
        }


@dataclass(frozen=True)
class Judge:
    """Knows what each style looks like.

    Attributes:
        perceptual: distance of pairs of pictures.
        network: pictures to features.
        references: features of each style's reference pictures.
        axes: along which the Frechet distance is taken.
        classifier: trained on every second reference photo, as it is and in every style.
        accuracy: the classifier's, on the other reference photos.
        artefacts: of each style's reference pictures.
    """

    perceptual: Network
    network: Network
    references: Mapping[str, Tensor]
    axes: Axes
    classifier: StyleClassifier
    accuracy: float
    artefacts: Mapping[str, Artefacts]

    @classmethod
    def taught(cls, perceptual: Network, network: Network, pictures: Mapping[str, np.ndarray]) -> Judge:
        """Learn from each style's pictures and the plain photos, which stand under "photo", all of the same photos."""
        references = {style: in_batches(network, drawn) for style, drawn in pictures.items()}
        axes = principal_axes(torch.cat(list(references.values())), AXES)
        classifier = StyleClassifier.fit(*halves(references, 0))
        accuracy = classifier.accuracy(*halves(references, 1))
        artefacts = {style: Artefacts.of(drawn) for style, drawn in pictures.items()}
        return cls(perceptual, network, references, axes, classifier, accuracy, artefacts)

    def __call__(self, style: str, results: np.ndarray, photos: np.ndarray) -> Figures:
        """Return the figures of pictures in a style, made from these photos; those of sets need two pictures."""
        features, reference = in_batches(self.network, results), self.references[style]
        content = float(in_batches(self.perceptual, results, photos).mean())
        several = len(results) > 1
        frechet = frechet_distance(self.axes(features), self.axes(reference)) if several else None
        return {
            "content": content,
            "frechet": frechet,
            "kernel": kernel_distance(features, reference) if several else None,
            "recognised": self.classifier.accuracy(features, [style] * len(results)),
            **Artefacts.of(results).beside(self.artefacts[style]),
            "both": None if frechet is None else (1 + content) * (1 + frechet),
        }


def halves(references: Mapping[str, Tensor], first: int) -> tuple[Tensor, list[str]]:
    """Return every second row of all classes from `first` on, with the classes' names."""
    some = {name: features[first::2] for name, features in references.items()}
    return torch.cat(list(some.values())), [name for name, features in some.items() for _ in features]


def averaged(figures: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over styles; `None` where one is not known."""
    found: Figures = {}
    for key in figures[0]:
        values = [figure[key] for figure in figures]
        known = [value for value in values if value is not None]
        found[key] = fmean(known) if len(known) == len(values) else None
    return found
