"""Layer offloading for a network larger than the GPU: weights stay in CPU memory, a layer's are moved while it runs.

accelerate's and diffusers' own offloading are for inference. diffusers overwrites a weight that autograd has saved for
the backward pass; accelerate empties the allocator's cache at every layer and copies from memory that is not pinned.
Here a copied weight is a tensor of its own, alive as long as the backward pass needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.diffusion.adapters import StyleLayer


@dataclass(frozen=True)
class LayerOffloader:
    """Copies one layer's weights to a device for the length of a call, and frees them after it.

    Attributes:
        weights: by name, in CPU memory; pinned for a CUDA device, so that a copy waits for nothing.
        placeholders: what the layer has between calls: of the same shape, type and device, without memory, NaN.
    """

    weights: dict[str, Tensor]
    placeholders: dict[str, nn.Parameter]

    def load(self, layer: nn.Module, inputs: Any) -> None:
        """Give the layer its weights; a hook before its call."""
        for name, weight in self.weights.items():
            copied = weight.to(self.placeholders[name].device, copy=True, non_blocking=True)
            setattr(layer, name, nn.Parameter(copied, requires_grad=False))

    def free(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Take them away; a hook after its call, also where it failed."""
        for name, placeholder in self.placeholders.items():
            setattr(layer, name, placeholder)


Weights = dict[nn.Module, dict[str, Tensor]]
"""Weights by layer and name."""


def layer_weights(network: nn.Module) -> Weights:
    """Return the weights that stay in CPU memory: those of linear layers and convolutions, and styles' full matrices.

    They are nearly all; norms and low-rank adapters stay on the device.
    """
    found: Weights = {}
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found[module] = {name: weight.detach() for name, weight in module.named_parameters(recurse=False)}
        elif isinstance(module, StyleLayer) and module.dense is not None:
            found[module] = {"dense": module.dense}
    return found


def offload(network: nn.Module, device: torch.device) -> None:
    """Move a frozen network to a device, all but the weights of its layers, which go there one layer at a time.

    Gradient checkpointing must be enabled (`memory.enable_gradient_checkpointing`): else every layer's weights stay on
    the device for the backward pass.
    """
    weights = layer_weights(network)
    for layer, own in weights.items():
        for name in own:
            setattr(layer, name, nn.Parameter(torch.empty(0), requires_grad=False))
    network.to(device)
    offload_layers(weights, device)


def offload_layers(weights: Weights, device: torch.device) -> None:
    """Move layers' weights to CPU memory and copy them to the device whenever the layer is called."""
    for layer, own in weights.items():
        offloader = LayerOffloader(
            weights={name: _cpu_copy(weight, device) for name, weight in own.items()},
            placeholders={name: _placeholder(weight, device) for name, weight in own.items()},
        )
        own.clear()
        for name, placeholder in offloader.placeholders.items():
            setattr(layer, name, placeholder)
        layer.register_forward_pre_hook(offloader.load)
        layer.register_forward_hook(offloader.free, always_call=True)


def _cpu_copy(weight: Tensor, device: torch.device) -> Tensor:
    """Return a weight in CPU memory, pinned if the device can read such memory by itself."""
    copied = weight.cpu()
    return copied.pin_memory() if device.type == "cuda" else copied


def _placeholder(weight: Tensor, device: torch.device) -> nn.Parameter:
    """Return a parameter that looks like the weight and holds one NaN, which a run would notice at once."""
    nothing = torch.full((), math.nan, dtype=weight.dtype, device=device).expand(weight.shape)
    return nn.Parameter(nothing, requires_grad=False)
