"""A network larger than the card: its weights stay in main memory, and each layer's visit the card while it works.

accelerate's and diffusers' own offloading are for inference. diffusers puts other contents into a weight that autograd
has kept for its way back; accelerate empties the allocator's cache at every layer and copies from memory that is not
pinned. Here a visiting weight is a tensor of its own, alive as long as the way back needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.diffusion.adapters import StyleBranch


@dataclass(frozen=True)
class Visitor:
    """Brings one layer's weights to a device for the length of a call, and lets go of them after it.

    Attributes:
        homes: the weights by name, in main memory; pinned for a CUDA device, so that a copy waits for nothing.
        stand_ins: what the layer has instead between calls: of the same shape, type and device, without memory, NaN.
    """

    homes: dict[str, Tensor]
    stand_ins: dict[str, nn.Parameter]

    def arrive(self, layer: nn.Module, inputs: Any) -> None:
        """Give the layer its weights; a hook before its call."""
        for name, home in self.homes.items():
            visiting = home.to(self.stand_ins[name].device, copy=True, non_blocking=True)
            setattr(layer, name, nn.Parameter(visiting, requires_grad=False))

    def leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Take them away; a hook after its call, also where it failed."""
        for name, stand_in in self.stand_ins.items():
            setattr(layer, name, stand_in)


Weights = dict[nn.Module, dict[str, Tensor]]
"""Weights by layer and name."""


def layer_weights(network: nn.Module) -> Weights:
    """Return the weights that stay in main memory: those of linear layers and convolutions, and styles' full matrices.

    They are nearly all; norms and low-rank branches stay on the device.
    """
    found: Weights = {}
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found[module] = {name: weight.detach() for name, weight in module.named_parameters(recurse=False)}
        elif isinstance(module, StyleBranch) and module.dense is not None:
            found[module] = {"dense": module.dense}
    return found


def offload(network: nn.Module, device: torch.device) -> None:
    """Move a frozen network to a device, all but the weights of its layers, which go there one layer at a time.

    Blocks must be computed twice in a call with gradient (`memory.keep_less`): else every layer's weights stay on the
    device for the way back.
    """
    weights = layer_weights(network)
    for layer, own in weights.items():
        for name in own:
            setattr(layer, name, nn.Parameter(torch.empty(0), requires_grad=False))
    network.to(device)
    let_visit(weights, device)


def let_visit(weights: Weights, device: torch.device) -> None:
    """Take layers' weights to main memory and bring them to the device whenever the layer is called."""
    for layer, own in weights.items():
        visitor = Visitor(
            homes={name: home_of(weight, device) for name, weight in own.items()},
            stand_ins={name: stand_in(weight, device) for name, weight in own.items()},
        )
        own.clear()
        for name, nothing in visitor.stand_ins.items():
            setattr(layer, name, nothing)
        layer.register_forward_pre_hook(visitor.arrive)
        layer.register_forward_hook(visitor.leave, always_call=True)


def home_of(weight: Tensor, device: torch.device) -> Tensor:
    """Return a weight in main memory, pinned if the device can read such memory by itself."""
    home = weight.cpu()
    return home.pin_memory() if device.type == "cuda" else home


def stand_in(weight: Tensor, device: torch.device) -> nn.Parameter:
    """Return what looks like the weight and holds one NaN, which a run would notice at once."""
    nothing = torch.full((), math.nan, dtype=weight.dtype, device=device).expand(weight.shape)
    return nn.Parameter(nothing, requires_grad=False)
