"""Working in less memory: parts that visit the device only while they work, and inner results that are made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylescore.diffusion.adapters import Adapters, Switch


@contextmanager
def visiting(modules: Sequence[nn.Module], device: torch.device | None) -> Iterator[None]:
    """Move modules to a device for the length of the block, and back to where each was; `None` moves nothing."""
    homes = [next(module.parameters()).device for module in modules] if device is not None else []
    try:
        for module, _ in zip(modules, homes, strict=False):
            module.to(device)
        yield
    finally:
        for module, home in zip(modules, homes, strict=False):
            module.to(home)
        torch.cuda.empty_cache()  # else what they took stays reserved; without CUDA this does nothing


def routed_checkpoint(switch: Switch) -> Callable[..., Any]:
    """Return a checkpoint for networks with adapters: on the way back a block takes its route on the way out."""

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        route = switch.route

        def again(*given: Any) -> Any:
            with switch.set(route):
                return block(*given)

        return checkpoint(again, *inputs, use_reentrant=False)

    return run


def keep_less(adapters: Adapters) -> None:
    """Have the network drop its blocks' inner results in calls with gradient, and make them again on the way back."""
    network: Any = adapters.network
    network.enable_gradient_checkpointing(routed_checkpoint(adapters.switch))
