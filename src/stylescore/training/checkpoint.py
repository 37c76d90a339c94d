"""The state of a training, copied out to be saved and put back in to resume it."""

from __future__ import annotations

from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.method.state import check_iteration, copy_to_cpu, named_tensors, restore_parameter
from stylescore.training.folder import TrainingState
from stylescore.training.loop import Trainer

OTHER_TRAINING = "it was made by another training"


def capture(trainer: Trainer) -> TrainingState:
    """Return a copy of a training's state after a whole step."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainer.parameters.items():
        tensors |= named_tensors(name, parameter, trainer.optimiser)
    scaler = trainer.process.accelerator.scaler
    return TrainingState(trainer.step, copy_to_cpu(tensors), scaler=scaler.state_dict() if scaler else None)


def restore(trainer: Trainer, state: TrainingState) -> None:
    """Put a saved state into a freshly assembled training.

    Raises:
        ConfigError: it belongs to another training.
    """
    step = check_iteration(state.iteration, trainer.config.steps)
    _require_known(trainer, state)
    for name, parameter in trainer.parameters.items():
        restore_parameter(name, parameter, trainer.optimiser, state.tensors)
    _restore_scaler(trainer, state)
    trainer.step = step


def _require_known(trainer: Trainer, state: TrainingState) -> None:
    """Raise `ConfigError` if a tensor belongs to no parameter of this training."""
    for key in state.tensors:
        if key not in trainer.parameters and key.rpartition(".")[0] not in trainer.parameters:
            raise ConfigError(f"the saved state has {key!r}, which this training does not have", hint=OTHER_TRAINING)


def _restore_scaler(trainer: Trainer, state: TrainingState) -> None:
    """Restore the loss scaler; raise `ConfigError` if this training has none or cannot use the saved one."""
    if not state.scaler:
        return
    scaler = trainer.process.accelerator.scaler
    if scaler is None:
        raise ConfigError("the saved state is one of float16, this training is not", hint=OTHER_TRAINING)
    try:
        scaler.load_state_dict(state.scaler)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ConfigError(f"the saved loss scaler cannot be used: {error}", hint=OTHER_TRAINING) from error
