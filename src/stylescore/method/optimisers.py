"""Optimisers and learning rates from their configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import assert_never

import torch
from torch import nn

from stylescore.config.method import OptimiserConfig


def make_optimiser(config: OptimiserConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of the subject; its learning rate is set anew in every iteration."""
    betas = (config.beta1, config.beta2)
    match config.name:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=config.lr, betas=betas)
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.lr)
        case _:
            assert_never(config.name)


def learning_rate(config: OptimiserConfig, iterations: int, scale: float = 1.0) -> Callable[[int], float]:
    """Return the learning rate as a function of the iteration: linear warm-up from 0, then a cosine.

    After W warm-up iterations the factor is max(0, (1 + cos(pi (i - W) / max(1, L - W))) / 2) with L the
    cosine length times the iterations, so that length 1.5 ends at about a third (METHOD, "Constants").

    Args:
        config: peak, warm-up and cosine length.
        iterations: length of the run.
        scale: constant factor; the number of entries for plain gradient descent on a mean loss.
    """
    warmup = config.warmup * iterations if config.warmup < 1 else config.warmup
    span = max(1.0, math.floor(config.cosine_length * iterations) - warmup)

    def at(iteration: int) -> float:
        peak = config.lr * scale
        if iteration < warmup:
            return peak * iteration / warmup
        if config.cosine_length == 0:
            return peak
        return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / span)))

    return at
