"""What moves a generator's weights: Adam, or Muon for the hidden layers and Adam for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stylescore.training.generator.config import OptimiserName

ADAM_BETA2 = 0.999
MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of X, X X^T X and (X X^T)^2 X in an iteration that brings singular values near 1."""
ITERATIONS = 5
ADAM_STEP = 0.2
"""Root mean square of Adam's steps at a learning rate of 1, by which Muon's are scaled."""


class Muon(Optimizer):
    """Moves matrices by orthogonal steps along a Nesterov momentum, so that rare directions move as far as common ones.

    Steps are as long as Adam's, so that one learning rate serves both. All is computed in the precision of the weights:
    `torch.optim.Muon` iterates in bfloat16, which processors without instructions for it emulate twenty times slower
    than float32.

    Sources: "Muon: An optimizer for hidden layers in neural networks" (Jordan et al., 2024), whose constants these are;
    the scale, arXiv 2502.16982, section 2.2.
    """

    def __init__(self, matrices: Iterable[nn.Parameter]) -> None:
        """Begin with no momentum and a learning rate of 1."""
        super().__init__(matrices, {"lr": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all matrices once, by their gradients."""
        del closure
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    direction = orthogonal(self._momentum(matrix))
                    matrix.add_(direction, alpha=-group["lr"] * ADAM_STEP * max(matrix.shape) ** 0.5)

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        """Take a gradient in, and return where the momentum will be after it once more."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(mean, MOMENTUM)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T, by Newton-Schulz iteration: singular values between 0.6 and 1.3.

    Those below a thousandth of the matrix's norm stay smaller.
    """
    first, third, fifth = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if is_tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=third, alpha=fifth), x, beta=first)
    return x.mT if is_tall else x


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon moves: of all layers but the first and the last, where outputs mix several inputs.

    Biases, norms and depthwise filters are left to Adam.
    """
    weights = [weight for weight in network.parameters() if weight.ndim > 1]
    return [weight for weight in weights[1:-1] if weight.shape[1] > 1]


class NetworkOptimiser:
    """Moves all weights of a network; its learning rate is set in every step.

    To Muon, a convolution's weight is a matrix of one row an output.
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
        self._muon = Muon(self._matrices.values()) if hidden else None

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
