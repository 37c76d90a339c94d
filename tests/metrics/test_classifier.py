"""The style classifier on sets of points whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.classifier import StyleClassifier

CENTRES = torch.tensor([[3.0, 0.0, 0.0, 7.0], [0.0, 3.0, 0.0, 7.0], [0.0, 0.0, 3.0, 7.0]])
NAMES = ["photo", "oil", "ink"]


def points(seed: int, count: int = 20) -> tuple[Tensor, list[str]]:
    """Return three clouds; their last feature is the same everywhere."""
    noise = 0.4 * torch.randn(3, count, 4, generator=torch.Generator().manual_seed(seed))
    noise[..., 3] = 0
    labels = [name for name in NAMES for _ in range(count)]
    return (CENTRES[:, None] + noise).flatten(0, 1), labels


def test_it_tells_separate_clouds_apart_that_it_has_not_seen() -> None:
    classifier = StyleClassifier.fit(*points(1))
    assert classifier.classes == ("ink", "oil", "photo")
    assert classifier.accuracy(*points(2)) == 1


def test_probabilities_sum_to_one_and_scale_and_shift_do_not_matter() -> None:
    (features, labels), (unseen, _) = points(1), points(2)
    found = StyleClassifier.fit(features, labels).probabilities(unseen)
    moved = StyleClassifier.fit(50 * features - 8, labels).probabilities(50 * unseen - 8)
    assert torch.allclose(found.sum(dim=1), torch.ones(60).double())
    assert torch.allclose(found, moved, atol=1e-3)


def test_without_a_difference_every_class_is_as_probable_as_it_is_frequent() -> None:
    classifier = StyleClassifier.fit(torch.ones(4, 3), ["a", "b", "b", "b"])
    assert torch.allclose(classifier.probabilities(torch.ones(1, 3)), torch.tensor([[0.25, 0.75]]).double(), atol=1e-4)


def test_the_loss_is_at_its_minimum() -> None:
    """There the gradient of the weights is zero: decay times weights equals the mean of (truth - belief) x."""
    features, labels = points(3)
    classifier = StyleClassifier.fit(features, labels, decay=0.1)
    standard = (features.double() - classifier.mean) / classifier.std
    truth = torch.tensor([[float(label == name) for name in classifier.classes] for label in labels]).double()
    pull = standard.T @ (truth - classifier.probabilities(features)) / len(labels)
    assert torch.allclose(pull, 0.1 * classifier.weights, atol=1e-5)


def test_errors_name_the_numbers() -> None:
    with pytest.raises(ConfigError, match="4 pictures, 3 labels"):
        StyleClassifier.fit(torch.ones(4, 3), ["a", "b", "b"])
    with pytest.raises(ConfigError, match="1 classes"):
        StyleClassifier.fit(torch.ones(2, 3), ["a", "a"])
