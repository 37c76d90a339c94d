"""What moves a generator's weights: Adam, or Muon for the hidden layers and Adam for the rest."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from stylescore.errors import ConfigError
from stylescore.training.generator.config import GeneratorTrainingConfig, OptimiserName

ADAM_BETA2 = 0.999


def check_optimisers(config: GeneratorTrainingConfig) -> None:
    """Raise `ConfigError` if a phase asks for an optimiser that this PyTorch does not have."""
    for name, phase in (("regression", config.regression), ("matching", config.matching)):
        if phase.steps and phase.optimiser == "muon" and not hasattr(torch.optim, "Muon"):
            raise ConfigError(
                f"{name}.optimiser = 'muon' needs PyTorch 2.9 or newer, this is {torch.__version__}",
                hint=f"update torch, or train longer with --set {name}.optimiser=adam",
            )


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon moves: of all layers but the first and the last, where outputs mix several inputs.

    Biases, norms and depthwise filters are left to Adam.
    """
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    return [weight for weight in weights[1:-1] if weight.shape[1] > 1]


class NetworkOptimiser:
    """Moves all weights of a network; its learning rate is set in every step.

    Muon makes each step of a weight matrix orthogonal, so that rare directions move as far as common ones. Its steps
    are scaled to be as long as Adam's, so that one learning rate serves both. A convolution's weight is a matrix of one
    row an output.

    Sources: Muon, "An optimizer for hidden layers in neural networks" (Jordan et al., 2024); the scale, arXiv
    2502.16982, section 2.2.
    """

    def __init__(self, network: nn.Module, name: OptimiserName, beta1: float) -> None:
        """Begin with no moments.

        Args:
            network: whose weights are contiguous.
            name: adam or muon.
            beta1: first moment of Adam.
        """
        hidden = hidden_weights(network) if name == "muon" else []
        self._weights = list(network.parameters())
        self._matrices = {weight: nn.Parameter(weight.detach().view(len(weight), -1)) for weight in hidden}
        rest = [weight for weight in self._weights if weight not in self._matrices]
        self._adam = Adam(rest, lr=1.0, betas=(beta1, ADAM_BETA2))
        self._muon = (
            torch.optim.Muon(self._matrices.values(), lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            if hidden
            else None
        )

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for optimiser in self._parts():
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for weight in self._weights:
            weight.grad = None

    def step(self) -> None:
        """Move all weights once, by their gradients."""
        for weight, matrix in self._matrices.items():
            matrix.grad = None if weight.grad is None else weight.grad.view_as(matrix)
        for optimiser in self._parts():
            optimiser.step()

    def part_of(self, weight: nn.Parameter) -> tuple[nn.Parameter, Optimizer]:
        """Return a weight as its optimiser holds it, sharing its memory, and that optimiser."""
        matrix = self._matrices.get(weight)
        if matrix is None or self._muon is None:
            return weight, self._adam
        return matrix, self._muon

    def _parts(self) -> list[Optimizer]:
        return [self._adam] if self._muon is None else [self._adam, self._muon]
