"""The denoiser's optimiser: Muon for the matrices, AdamW for the rest, with the matrices divided among processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EDGES = ("unet.conv_in", "unet.conv_out", "embed")
"""Names of the first and last layers, which AdamW optimises."""


def as_matrix(weight: Tensor) -> Tensor:
    """View a linear or convolution weight as outputs x inputs; a channels-last convolution shares its storage."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1) if weight.ndim == 4 else weight


class MatrixOptimiser:
    """Steps both optimisers; every process orthogonalises a part of the matrices and sends it to the others."""

    def __init__(self, model: nn.Module, rate: float, rank: int, world: int) -> None:
        """Split the model's parameters; its convolutions must be in channels-last format."""
        self.rank, self.world = rank, world
        named = dict(model.named_parameters())
        inner = {name for name, p in named.items() if p.ndim in (2, 4) and not any(edge in name for edge in EDGES)}
        self.weights = [named[name] for name in named if name in inner]
        self.matrices = [nn.Parameter(as_matrix(weight.detach())) for weight in self.weights]
        shared = zip(self.matrices, self.weights, strict=True)
        if any(matrix.data_ptr() != weight.data_ptr() for matrix, weight in shared):
            raise ValueError("convolution weights must be in channels-last format")
        rest = [named[name] for name in named if name not in inner]
        muon = torch.optim.Muon(self.matrices[rank::world], lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.parts = [muon, torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)]

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of both."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate

    def step(self) -> None:
        """Move the weights once, by their gradients."""
        for matrix, weight in zip(self.matrices, self.weights, strict=True):
            matrix.grad = None if weight.grad is None else as_matrix(weight.grad)
        for part in self.parts:
            part.step()
        if self.world > 1:
            for number, matrix in enumerate(self.matrices):
                torch.distributed.broadcast(matrix.data, number % self.world)
