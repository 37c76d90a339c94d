"""How a generator's weights are moved: hidden layers by orthogonal steps, the rest by Adam."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from stylescore.errors import ConfigError
from stylescore.generators.mobile import MobileGenerator
from stylescore.generators.resnet import ResnetGenerator
from stylescore.training.generator.optimiser import NetworkOptimiser, hidden_weights
from stylescore.training.generator.session import set_up

RATE = 1e-2
NEWTON_SCHULZ = (0.6, 1.3)
"""Where five iterations with Muon's coefficients bring singular values that are not tiny."""


def with_gradients(network: nn.Module) -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    return dict(network.named_parameters())


def test_hidden_weights_are_neither_at_the_ends_nor_depthwise() -> None:
    network = MobileGenerator(width=16, blocks=1, noise_channels=4)
    hidden = {id(weight) for weight in hidden_weights(network)}
    names = {name for name, weight in network.named_parameters() if id(weight) in hidden}
    assert names == {
        *("down.1.weight", "down.2.weight", "noise.weight", "body.0.expand.weight", "body.0.reduce.weight"),
        *(f"up.{level}.{layer}.weight" for level in (0, 1) for layer in ("enlarge.pixels", "join", "filter")),
        "cells.pixels.weight",
    }
    resnet = ResnetGenerator(width=8, blocks=1)
    shapes = [tuple(weight.shape) for weight in hidden_weights(resnet)]
    assert all(3 not in shape[:2] for shape in shapes)
    assert len(shapes) == sum(weight.ndim == 4 for weight in resnet.parameters()) - 2


def test_a_hidden_layers_step_is_orthogonal_and_as_long_as_adams() -> None:
    """The closed form is -rate * 0.2 sqrt(max(m, n)) U V^T of the gradient, here along its own singular vectors."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 24, 2), nn.Conv2d(24, 3, 1))
    before, weights = copy.deepcopy(dict(network.named_parameters())), with_gradients(network)
    optimiser = NetworkOptimiser(network, "muon", 0.9)
    optimiser.set_rate(RATE)
    optimiser.step()
    moved = (weights["1.weight"] - before["1.weight"]).detach().reshape(24, 32)
    assert weights["1.weight"].grad is not None
    u, _, v = torch.linalg.svd(weights["1.weight"].grad.reshape(24, 32), full_matrices=False)
    along = u.T @ moved @ v.T / (-RATE * 0.2 * 32**0.5)
    low, high = NEWTON_SCHULZ
    assert all(low < float(value) < high for value in along.diagonal())
    assert float((along - along.diagonal().diag()).abs().max()) < 0.05
    for name in ("0.weight", "2.weight", "1.bias"):  # Adam's first step has the length of the rate
        torch.testing.assert_close((weights[name] - before[name]).abs(), torch.full_like(before[name], RATE))


def test_adam_alone_is_adam() -> None:
    ours, theirs = (MobileGenerator(width=16, blocks=1, noise_channels=0) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimiser, adam = NetworkOptimiser(ours, "adam", 0.5), torch.optim.Adam(theirs.parameters(), RATE, (0.5, 0.999))
    optimiser.set_rate(RATE)
    for _ in range(2):
        with_gradients(ours), with_gradients(theirs)
        optimiser.step(), adam.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    optimiser.zero_grad()
    assert all(weight.grad is None for weight in ours.parameters())


def test_a_weight_without_gradient_stays() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    before = copy.deepcopy(network.state_dict())
    optimiser = NetworkOptimiser(network, "muon", 0.9)
    optimiser.set_rate(RATE)
    optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_an_older_pytorch_is_told_before_pairs_are_made(
    generator_request: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigError, match=r"regression.optimiser = 'muon' needs PyTorch 2.9 or newer") as caught:
        set_up(generator_request())
    assert "--set regression.optimiser=adam" in str(caught.value.hint)
    set_up(generator_request(regression={"optimiser": "adam"}))
    with pytest.raises(ConfigError, match=r"matching.optimiser = 'muon'"):
        set_up(generator_request(regression={"optimiser": "adam"}, matching={"optimiser": "muon"}))
