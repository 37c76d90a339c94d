"""Less memory: modules that are on the device only while they run, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylescore.diffusion.adapters import Adapters, Switch


@contextmanager
def moved_to_device(modules: Sequence[nn.Module], device: torch.device | None) -> Iterator[None]:
    """Move modules to a device for the length of the block, and back to where each was; `None` moves nothing."""
    homes = [next(module.parameters()).device for module in modules] if device is not None else []
    try:
        for module, _ in zip(modules, homes, strict=False):
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, homes, strict=False):
            module.to(home)
        torch.cuda.empty_cache()  # else their memory stays reserved; without CUDA this does nothing


def _routed_checkpoint(switch: Switch) -> Callable[..., Any]:
    """Return a checkpoint for networks with adapters: the backward pass recomputes a block on its forward route."""

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        route = switch.route

        def compute(*given: Any) -> Any:
            with switch.set(route):
                return block(*given)

        return checkpoint(compute, *inputs, use_reentrant=False)

    return run


def enable_gradient_checkpointing(adapters: Adapters) -> None:
    """Have the network recompute its blocks' activations in the backward pass instead of storing them."""
    network: Any = adapters.network
    network.enable_gradient_checkpointing(_routed_checkpoint(adapters.switch))
