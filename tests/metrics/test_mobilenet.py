"""MobileNetV2 against the one of transformers, with random weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError
from stylescore.metrics.mobilenet import MobileNetFeatures
from stylescore.metrics.preparation import IMAGENET, standardise


@cache
def state() -> dict[str, Tensor]:
    """Return random weights under torchvision's names, with batch norms that do something."""
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = MobileNetFeatures().state_dict()
    for name, tensor in weights.items():
        if name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=rng))
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    return {**weights, "classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}


def pictures(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    return 2 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)) - 1


def test_it_has_the_parameters_of_the_published_network() -> None:
    network = MobileNetFeatures.from_state(state())
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_223_872
    assert len(network.state_dict()) == 312


def test_it_is_the_network_of_transformers() -> None:
    from transformers import MobileNetV2Config, MobileNetV2Model

    network = MobileNetFeatures.from_state(state())
    other = MobileNetV2Model(MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5)).eval()
    other.load_state_dict(dict(zip(other.state_dict(), network.state_dict().values(), strict=True)))
    x = pictures()
    with torch.no_grad():
        theirs = other(standardise(x, IMAGENET)).pooler_output
    assert network(x).shape == (2, 1280)
    assert torch.allclose(network(x), theirs, atol=1e-5)


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    network, x = MobileNetFeatures.from_state(state()), pictures(3, 48, 32)
    assert torch.allclose(network(x), torch.cat([network(x[n : n + 1]) for n in range(3)]), atol=1e-5)


def test_weights_that_do_not_fit_are_refused() -> None:
    lacking = {name: tensor for name, tensor in state().items() if name != "features.18.0.weight"}
    with pytest.raises(ModelError, match=r"features\.18\.0\.weight"):
        MobileNetFeatures.from_state(lacking)
