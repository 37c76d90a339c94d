"""The state of a generator's training, copied out to be saved and put back in to resume it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from stylescore.errors import ConfigError
from stylescore.method.state import (
    State,
    check_iteration,
    copy_to_cpu,
    named_tensors,
    restore_parameter,
)
from stylescore.training.generator.average import copy_weights
from stylescore.training.generator.loop import PHASES, Trainer, make_optimiser

OTHER = "it was made by another training"


@dataclass(frozen=True)
class GeneratorState(State):
    """All that a training has changed: weights, averaged and best ones, fake score, critic, optimisers' moments.

    Attributes:
        phase: number of the phase in progress.
        phase_step: steps done in it.
        best_measure: smallest measure of the phase; `None` before the first one.
        misses: measures since then.
    """

    phase: int = 0
    phase_step: int = 0
    best_measure: float | None = None
    misses: int = 0


def capture(trainer: Trainer) -> GeneratorState:
    """Return a copy of a training's state after a whole step."""
    tensors: dict[str, Tensor] = {}
    for name, parameter, optimiser in _parameters(trainer):
        tensors |= named_tensors(name, parameter, optimiser)
    tensors |= {f"average.{name}": value for name, value in trainer.average.named_parameters()}
    tensors |= {f"best.{name}": value for name, value in (trainer.best or {}).items()}
    return GeneratorState(
        trainer.step,
        copy_to_cpu(tensors),
        phase=trainer.phase,
        phase_step=trainer.phase_step,
        best_measure=None if trainer.best is None else trainer.best_measure,
        misses=trainer.misses,
    )


def restore(trainer: Trainer, state: GeneratorState) -> None:
    """Put a saved state into a freshly assembled training.

    Raises:
        ConfigError: it belongs to another training.
    """
    _check_place(trainer, state)
    trainer.optimiser = make_optimiser(trainer.config, trainer.network, state.phase)
    for name, parameter, optimiser in _parameters(trainer):
        restore_parameter(name, parameter, optimiser, state.tensors)
    _copy("average", dict(trainer.average.named_parameters()), state)
    trainer.step, trainer.phase, trainer.phase_step = state.iteration, state.phase, state.phase_step
    trainer.misses = state.misses
    if state.best_measure is not None:
        trainer.best, trainer.best_measure = copy_weights(trainer.average), state.best_measure
        _copy("best", trainer.best, state)


def _check_place(trainer: Trainer, state: GeneratorState) -> None:
    """Raise `ConfigError` if a training cannot stand where a state says."""
    check_iteration(state.iteration, trainer.config.total)
    lengths = (*trainer.config.lengths, 0)
    numbers = (state.phase, state.phase_step, state.misses)
    fits = all(type(number) is int and number >= 0 for number in numbers) and state.phase <= len(PHASES)
    if not fits or state.phase_step > lengths[state.phase]:
        raise ConfigError(f"the saved state is that of step {state.phase_step!r} of phase {state.phase!r}", hint=OTHER)
    if state.best_measure is not None and not (
        isinstance(state.best_measure, int | float) and math.isfinite(state.best_measure)
    ):
        raise ConfigError(f"the saved best_measure is {state.best_measure!r}", hint=OTHER)


def _copy(kind: str, parameters: dict[str, nn.Parameter] | dict[str, Tensor], state: GeneratorState) -> None:
    """Copy saved weights of one kind into tensors of the same shapes."""
    for name, parameter in parameters.items():
        saved = state.tensors.get(f"{kind}.{name}")
        if saved is None or saved.shape != parameter.shape:
            raise ConfigError(f"the saved state has no fitting '{kind}.{name}'", hint=OTHER)
        parameter.data.copy_(saved)


def _parameters(trainer: Trainer) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Yield every trained parameter with a name and its optimiser."""
    for name, parameter in trainer.network.named_parameters():
        yield f"network.{name}", *trainer.optimiser.part_of(parameter)
    if trainer.matching.fake is not None and trainer.fake_optimiser is not None:
        for name, parameter in trainer.matching.fake.state.items():
            yield f"fake.{name}", parameter, trainer.fake_optimiser
    if trainer.regression.critic is not None and trainer.critic_optimiser is not None:
        for name, parameter in trainer.regression.critic.named_parameters():
            yield f"critic.{name}", parameter, trainer.critic_optimiser
