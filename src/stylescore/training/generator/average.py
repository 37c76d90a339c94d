"""Averaged weights of a network, which are better than those of any single step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, steps: int) -> None:
    """Move the weights of an averaged network towards those of the one that is trained.

    The decay is min(decay, (1 + n) / (10 + n)) after n steps, so that the first weights are soon forgotten.
    """
    now = min(decay, (1 + steps) / (10 + steps))
    for ours, theirs in zip(average.parameters(), network.parameters(), strict=True):
        ours.lerp_(theirs, 1 - now)


@torch.no_grad()
def put_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a network."""
    for name, parameter in network.named_parameters():
        parameter.copy_(weights[name])
