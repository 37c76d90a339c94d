"""Computes the figures of a method's pictures in a style."""

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
    artfid,
    clipped_fraction,
    frechet_distance,
    grain,
    grid_energy,
    kernel_distance,
    principal_axes,
)
from stylescore.metrics.frechet import Axes

AXES = 32
"""Principal axes of the Frechet distance: fewer than the 40 test pictures, whose covariance then has full rank."""
BATCH = 8
PHOTO = "photo"
LEAST_GRAIN = 0.1
"""Smallest grain in grey levels: values below the error of rounding count as this, so that flat pictures have one."""
NO_GRID = 1.0
"""Grid energy of a style without a grid. Cells as wide as a latent have less, which results need not reach."""

Figures = dict[str, float | None]
Network = Callable[..., Tensor]


@torch.no_grad()
def run_in_batches(network: Network, *pictures: np.ndarray) -> Tensor:
    """Return a network's output for pictures, or for pairs of them, in batches of `BATCH`."""
    firsts = range(0, len(pictures[0]), BATCH)
    return torch.cat([network(*(to_tensor(p[n : n + BATCH]) for p in pictures)) for n in firsts])


@dataclass(frozen=True)
class Artefacts:
    """Artefacts of a set of pictures, as means over the set.

    Attributes:
        clipped: fraction of clipped channel values.
        grid: energy at the frequencies of the latent grid relative to neighbouring frequencies.
        grain: in grey levels, at least `LEAST_GRAIN`.
    """

    clipped: float
    grid: float
    grain: float

    @classmethod
    def measure(cls, pictures: np.ndarray) -> Artefacts:
        """Measure pictures, uint8 [pictures, height, width, 3] in sRGB."""
        pixels = torch.from_numpy(np.ascontiguousarray(pictures))
        clipped, grid, grains = (float(f(pixels).mean()) for f in (clipped_fraction, grid_energy, grain))
        return cls(clipped, grid, max(grains, LEAST_GRAIN))

    def compare(self, references: Artefacts) -> Figures:
        """Return the excess over the artefacts of the style's own pictures; 0 is best."""
        return {
            "overshoot": max(0.0, self.clipped - references.clipped),
            "grid": max(0.0, log2(self.grid / max(references.grid, NO_GRID))),
            "grain": abs(log2(self.grain / references.grain)),
        }


@dataclass(frozen=True)
class Judge:
    """Computes figures by comparison with reference pictures of each style.

    Attributes:
        perceptual: network for the distance of pairs of pictures.
        network: network for the features of pictures.
        references: features of each style's reference pictures.
        axes: principal axes of the features, for the Frechet distance.
        classifier: trained on every second reference photo, unchanged and in every style.
        accuracy: of the classifier on the other reference photos.
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
    def train(cls, perceptual: Network, network: Network, pictures: Mapping[str, np.ndarray]) -> Judge:
        """Train on each style's pictures and, under "photo", the unchanged photos; all are of the same photos."""
        references = {style: run_in_batches(network, drawn) for style, drawn in pictures.items()}
        axes = principal_axes(torch.cat(list(references.values())), AXES)
        classifier = StyleClassifier.fit(*select_half(references, 0))
        accuracy = classifier.accuracy(*select_half(references, 1))
        artefacts = {style: Artefacts.measure(drawn) for style, drawn in pictures.items()}
        return cls(perceptual, network, references, axes, classifier, accuracy, artefacts)

    def __call__(self, style: str, results: np.ndarray, photos: np.ndarray) -> Figures:
        """Compute the figures of pictures in a style made from these photos; distances of sets need two pictures."""
        features, reference = run_in_batches(self.network, results), self.references[style]
        content = float(run_in_batches(self.perceptual, results, photos).mean())
        several = len(results) > 1
        frechet = frechet_distance(self.axes(features), self.axes(reference)) if several else None
        return {
            "content": content,
            "frechet": frechet,
            "kernel": kernel_distance(features, reference) if several else None,
            "recognised": self.classifier.accuracy(features, [style] * len(results)),
            **Artefacts.measure(results).compare(self.artefacts[style]),
            "both": None if frechet is None else artfid(content, frechet),
        }


def select_half(references: Mapping[str, Tensor], first: int) -> tuple[Tensor, list[str]]:
    """Return every second row of all classes from `first` on, with the name of each row's class."""
    some = {name: features[first::2] for name, features in references.items()}
    return torch.cat(list(some.values())), [name for name, features in some.items() for _ in features]


def average(figures: Sequence[Figures]) -> Figures:
    """Return the mean of each figure over styles, or `None` if it is unknown for one."""
    found: Figures = {}
    for key in figures[0]:
        values = [figure[key] for figure in figures]
        known = [value for value in values if value is not None]
        found[key] = fmean(known) if len(known) == len(values) else None
    return found
