"""The state of a run: all that it changes, copied out so that it can be saved, and put back in to resume the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from stylescore.errors import ConfigError
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting
from stylescore.method.subjects import LatentSubject
from stylescore.method.types import Latent

STEP_COUNT = "step"
"""Adam's count of its steps: one number for a whole parameter, which Adam expects on the CPU."""
ADAM_STATE = frozenset({STEP_COUNT, "exp_avg", "exp_avg_sq"})


@dataclass(frozen=True)
class State:
    """All that a run has changed so far.

    Attributes:
        iteration: iterations done.
        tensors: by name, on the CPU.
        settings: of the run that made it, by dotted names; `None` where they are not known.
    """

    iteration: int
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PictureState(State):
    """The state of one picture of a batch: latents, fake adapter, moments of both optimisers, random generator."""


def capture(fitting: Fitting, picture: int) -> PictureState:
    """Return a copy of the state of one picture of the batch."""
    assert isinstance(fitting.subject, LatentSubject)
    tensors = {
        "z_source": fitting.subject.z_source[picture],
        "generator": fitting.rng[picture].get_state(),
    }
    for name, parameter, optimiser in _parameters(fitting):
        for key, value in named_tensors(name, parameter, optimiser).items():
            tensors[key] = value[picture % len(parameter)] if value.shape == parameter.shape else value
    return PictureState(fitting.iteration, copy_to_cpu(tensors))


def restore(fitting: Fitting, states: Sequence[PictureState]) -> None:
    """Put saved states, one per picture and all of the same iteration, into a freshly assembled run.

    Raises:
        ConfigError: a state belongs to another configuration.
    """
    if len({state.iteration for state in states}) != 1:
        raise ConfigError("the saved states of one batch must have the same iteration")
    fitting.iteration = check_iteration(states[0].iteration, fitting.iterations)
    for generator, state in zip(fitting.rng, states, strict=True):
        _restore_generator(generator, _saved(state.tensors, "generator"))
    for name, parameter, optimiser in _parameters(fitting):
        restore_parameter(name, parameter, optimiser, _stack_parameter(states[: len(parameter)], name))


def source_latents(states: Sequence[PictureState]) -> Latent:
    """Return the source latents of saved states, [batch, c, h, w].

    Raises:
        ConfigError: they are missing, or their shape is not that of the pictures' latents.
    """
    z_source = _stack(states, "z_source")
    if z_source.ndim != 4 or z_source.shape != _stack(states, "z").shape:
        raise _mismatch(f"the saved 'z_source' has shape {tuple(z_source.shape[1:])}, which is not that of 'z'")
    return z_source


def named_tensors(name: str, parameter: Tensor, optimiser: Optimizer) -> dict[str, Tensor]:
    """Return a parameter under its name, and its optimiser's moments as `name.exp_avg` and so on; nothing is copied."""
    moments = optimiser.state.get(parameter, {})
    named = {f"{name}.{part}": value for part, value in moments.items() if isinstance(value, Tensor)}
    return {name: parameter.data} | named


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors that do not change with the run."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def restore_parameter(name: str, parameter: Tensor, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Copy a parameter and its moments, named as `named_tensors` does, into a run and its optimiser.

    Raises:
        ConfigError: one is missing or has another shape.
    """
    parameter.copy_(_fit(tensors, name, parameter))
    parts = [key.removeprefix(f"{name}.") for key in tensors if _is_moment(key, name)]
    missing = ADAM_STATE.difference(parts) if parts and "betas" in optimiser.defaults else None
    if missing:
        raise _mismatch(f"the saved state has no {f'{name}.{min(missing)}'!r}")
    optimiser.state[parameter] = {
        part: _step_count(tensors, f"{name}.{part}")
        if part == STEP_COUNT
        else _fit(tensors, f"{name}.{part}", parameter)
        for part in parts
    }


def check_iteration(iteration: int, iterations: int) -> int:
    """Return a saved number of iterations if a run of so many can have it, else raise `ConfigError`."""
    if not 0 <= iteration <= iterations:
        raise _mismatch(f"the saved state is that of iteration {iteration}, the run has {iterations} iterations")
    return iteration


def _parameters(fitting: Fitting) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Yield every parameter with a name and its optimiser; its first axis has one entry a picture, or a single one."""
    assert isinstance(fitting.subject, LatentSubject)
    yield "z", fitting.subject.z, fitting.optimiser
    if isinstance(fitting.fake, FakeScore):
        for index, parameter in enumerate(fitting.fake.parameters):
            yield f"fake.{index}", parameter, fitting.fake.optimiser


def _restore_generator(generator: Generator, state: Tensor) -> None:
    try:
        generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise _mismatch(f"the saved 'generator' cannot be used: {error}") from error


def _stack_parameter(states: Sequence[PictureState], name: str) -> dict[str, Tensor]:
    """Return one parameter and its moments for a batch; the step count is one for all pictures."""
    keys = [key for key in states[0].tensors if key == name or _is_moment(key, name)]
    return {key: states[0].tensors[key] if key == f"{name}.{STEP_COUNT}" else _stack(states, key) for key in keys}


def _stack(states: Sequence[PictureState], key: str) -> Tensor:
    tensors = [_saved(state.tensors, key) for state in states]
    if len({tensor.shape for tensor in tensors}) != 1:
        raise _mismatch(f"the saved {key!r} has another shape in every picture")
    return torch.stack(tensors)


def _is_moment(key: str, name: str) -> bool:
    prefix, _, _ = key.rpartition(".")
    return prefix == name


def _fit(tensors: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    """Return a copy of a saved tensor in the type and place of `like`, whose shape it must have."""
    tensor = _saved(tensors, key)
    if tensor.shape != like.shape:
        raise _mismatch(f"the saved {key!r} has shape {tuple(tensor.shape)}, the run needs {tuple(like.shape)}")
    return tensor.to(like, copy=True)


def _step_count(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    tensor = _saved(tensors, key)
    if tensor.ndim:
        raise _mismatch(f"the saved {key!r} must be one number, it has shape {tuple(tensor.shape)}")
    return tensor.clone()


def _saved(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in tensors:
        raise _mismatch(f"the saved state has no {key!r}")
    return tensors[key]


def _mismatch(message: str) -> ConfigError:
    return ConfigError(message, hint="it was made by another configuration")
