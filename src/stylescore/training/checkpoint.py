"""An unfinished training, as tensors and JSON in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.storage.files import atomic
from stylescore.training.loop import Trainer

WEIGHT = "weight"


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return the adapter and the optimiser's state as `name:part`, copied to the CPU."""
    return {f"{name}:{part}": tensor.detach().cpu().clone() for name, part, tensor in _named(trainer)}


def _named(trainer: Trainer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in trainer.parameters.items():
        yield name, WEIGHT, parameter
        for part, value in trainer.optimiser.state.get(parameter, {}).items():
            yield name, part, value


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Keep a training after a whole step.

    Raises:
        OutputError: the file cannot be written.
    """
    scaler = trainer.machine.accelerator.scaler
    facts = {"step": trainer.step, "scaler": scaler.state_dict() if scaler else None}
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors_of(trainer), {"training": json.dumps(facts)}))


def load_checkpoint(trainer: Trainer, path: Path) -> None:
    """Put a kept state into a freshly assembled training; without a file it stays at its beginning.

    Raises:
        ConfigError: the file is damaged or belongs to another training.
    """
    if not path.is_file():
        return
    try:
        tensors, facts = read_checkpoint(path)
        restore(trainer, tensors, facts)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint {str(path)!r} cannot be taken up: {error}", hint="begin a new training"
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors and facts."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        facts: dict[str, Any] = json.loads(file.metadata()["training"])
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError("it holds NaN or infinity")
    return tensors, facts


@torch.no_grad()
def restore(trainer: Trainer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Copy weights and moments; AdamW's step count stays on the CPU, where AdamW keeps it."""
    states: dict[str, dict[str, Tensor]] = {name: {} for name in trainer.parameters}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(":")
        states[name][part] = tensor
    for name, parameter in trainer.parameters.items():
        parameter.copy_(_same_shape(name, states[name].pop(WEIGHT), parameter))
        moments = states[name].items()
        trainer.optimiser.state[parameter] = {
            part: value if value.ndim == 0 else value.to(parameter.device) for part, value in moments
        }
    if facts["scaler"]:
        trainer.machine.accelerator.scaler.load_state_dict(facts["scaler"])
    trainer.step = int(facts["step"])


def _same_shape(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.shape != like.shape:
        raise ValueError(f"{name!r} has shape {tuple(tensor.shape)}, not {tuple(like.shape)}")
    return tensor
