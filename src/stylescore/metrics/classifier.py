"""Classifies styles by linear softmax regression on a picture's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stylescore.errors import ConfigError
from stylescore.metrics.features import Features

Weights = Float[Tensor, "features classes"]
Labels = Sequence[str]


@dataclass(frozen=True)
class StyleClassifier:
    """A trained classifier.

    Attributes:
        classes: names, in the order of the probabilities.
        mean: of the training features.
        std: of the training features, 1 where a feature is constant.
        weights: one column for each class.
        bias: one number for each class.
    """

    classes: tuple[str, ...]
    mean: Float[Tensor, " features"]
    std: Float[Tensor, " features"]
    weights: Weights
    bias: Float[Tensor, " classes"]

    @classmethod
    def fit(cls, features: Features, labels: Labels, decay: float = 0.01) -> StyleClassifier:
        """Train a classifier on features, with the class's name for each row.

        The loss, mean cross entropy plus `decay` / 2 times the squared weights, is convex, so that the result does not
        depend on a seed.

        Raises:
            ConfigError: the number of labels is not that of the pictures, or there are fewer than two classes.
        """
        classes = tuple(sorted(set(labels)))
        if len(labels) != len(features) or len(classes) < 2:
            raise ConfigError(
                "training needs one label for each picture and two classes, "
                f"got {len(features)} pictures, {len(labels)} labels and {len(classes)} classes"
            )
        exact = features.double()
        std = exact.std(dim=0)
        mean, std = exact.mean(dim=0), torch.where(std > 0, std, 1.0)
        targets = torch.tensor([classes.index(label) for label in labels])
        return cls(classes, mean, std, *_minimise((exact - mean) / std, targets, len(classes), decay))

    def probabilities(self, features: Features) -> Float[Tensor, "pictures classes"]:
        """Return the probability of each class for each picture."""
        standard = (features.double() - self.mean) / self.std
        return torch.softmax(standard @ self.weights + self.bias, dim=1)

    def accuracy(self, features: Features, labels: Labels) -> float:
        """Return the fraction of pictures whose most probable class is the right one."""
        predicted = self.probabilities(features).argmax(dim=1).tolist()
        hits = [self.classes[n] == label for n, label in zip(predicted, labels, strict=True)]
        return hits.count(True) / len(hits)


def _minimise(features: Features, targets: Tensor, classes: int, decay: float) -> tuple[Weights, Tensor]:
    """Return the weights and the bias that minimise the loss, found by L-BFGS from zero."""
    weights = torch.zeros(features.shape[1], classes, dtype=features.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=features.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=300, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = functional.cross_entropy(features @ weights + bias, targets) + decay / 2 * weights.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()
