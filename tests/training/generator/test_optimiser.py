"""How a generator's weights are moved: hidden layers by orthogonal steps, the rest by Adam."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stylescore.generators.mobile import MobileGenerator
from stylescore.generators.resnet import ResnetGenerator
from stylescore.training.generator.optimiser import Muon, NetworkOptimiser, hidden_weights, orthogonal

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


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has no Muon to compare with")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_muon_is_that_of_pytorch_but_for_its_precision(shape: tuple[int, int]) -> None:
    ours, theirs = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    reference = torch.optim.Muon([theirs], lr=RATE, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    muon = Muon([ours])
    muon.param_groups[0]["lr"] = RATE
    for seed in range(3):
        for weight, optimiser in ((ours, muon), (theirs, reference)):
            weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            optimiser.step()
    error = (ours - theirs).detach().norm() / theirs.detach().norm()
    assert float(error) < 0.03  # bfloat16 has eight bits
    state, wanted = muon.state[ours]["momentum_buffer"], reference.state[theirs]["momentum_buffer"]
    torch.testing.assert_close(state, wanted)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_an_orthogonal_matrix_is_that_of_the_singular_vectors(shape: tuple[int, int]) -> None:
    u, s, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    found = orthogonal(u * s @ v)
    along = u.T @ found @ v.T
    low, high = NEWTON_SCHULZ
    assert all(low < float(value) < high for value in along.diagonal())
    torch.testing.assert_close(along, along.diagonal().diag(), atol=1e-5, rtol=0)
    torch.testing.assert_close(orthogonal(1e4 * (u * s @ v)), found, atol=1e-5, rtol=0)
    assert not orthogonal(torch.zeros(shape)).any()
