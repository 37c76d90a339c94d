"""Figures for a method's pictures in a style."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from torch import Tensor
from training.pictures import to_tensor

from stylescore.metrics import StyleClassifier, frechet_distance, kernel_distance, principal_axes
from stylescore.metrics.frechet import Axes

AXES = 32
"""Fewer than the 40 test pictures, so that their covariance has full rank."""
BATCH = 8
PHOTO = "photo"

Figures = dict[str, float | None]
Network = Callable[..., Tensor]


@torch.no_grad()
def in_batches(network: Network, *pictures: np.ndarray) -> Tensor:
    """Return what a network says about pictures, or pairs of them, a few at a time."""
    firsts = range(0, len(pictures[0]), BATCH)
    return torch.cat([network(*(to_tensor(p[n : n + BATCH]) for p in pictures)) for n in firsts])


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
    """

    perceptual: Network
    network: Network
    references: Mapping[str, Tensor]
    axes: Axes
    classifier: StyleClassifier
    accuracy: float

    @classmethod
    def taught(cls, perceptual: Network, network: Network, pictures: Mapping[str, np.ndarray]) -> Judge:
        """Learn from each style's pictures and the plain photos, which stand under "photo", all of the same photos."""
        references = {style: in_batches(network, drawn) for style, drawn in pictures.items()}
        axes = principal_axes(torch.cat(list(references.values())), AXES)
        classifier = StyleClassifier.fitted(*halves(references, 0))
        return cls(perceptual, network, references, axes, classifier, classifier.accuracy(*halves(references, 1)))

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
