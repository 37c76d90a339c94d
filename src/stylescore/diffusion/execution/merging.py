"""Whether a style adapter is merged into a copy of the network's weights, or evaluated beside its layers.

A merged copy saves the adapter's extra work, but takes the network's memory twice, and its rows cannot share a call
with those of the other scores. Merging in half precision would round small changes away.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stylescore.config.method import MethodConfig
from stylescore.diffusion.adapters import merge
from stylescore.lora import Change

LARGEST = 2**28
"""Bytes of a network that is copied by default; a network of SD 1's size gained nothing that could be measured."""
FREE_MEMORY_DIVISOR = 4
"""A copy is made by default if it takes at most the free memory divided by this."""


def merge_into_copy(network: nn.Module, deltas: Mapping[str, Change], strength: float) -> Any:
    """Return a copy of a network that has no adapters yet, with changes added to its weights."""
    styled = copy.deepcopy(network)
    merge(styled, deltas, strength)
    return styled


def merging_is_faster(method: MethodConfig, network: nn.Module) -> bool:
    """Tell whether a merged copy is expected to be faster, costs no precision and leaves enough memory.

    It is faster where the style's rows have no call of other scores to join.
    """
    weights, size = next(network.parameters()), network_bytes(network)
    free = free_memory(weights.device)
    fits = size <= LARGEST and free is not None and FREE_MEMORY_DIVISOR * size <= free
    return method.has_lone_style_pass and weights.dtype == torch.float32 and fits


def network_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; `None` where that is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
