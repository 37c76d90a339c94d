"""A run's state, picture by picture: what must be kept to go on and end in the same picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylescore.errors import ConfigError
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting
from stylescore.method.subjects import LatentSubject
from stylescore.method.types import Latent


@dataclass(frozen=True)
class PictureState:
    """One picture's share of a run.

    Attributes:
        iteration: iterations done.
        tensors: latents, adapter, moments of both optimisers and the generator, by name, on the CPU.
    """

    iteration: int
    tensors: Mapping[str, Tensor]


def named_groups(fitting: Fitting) -> Iterator[tuple[str, nn.Parameter, Optimizer]]:
    """Yield every parameter with a name and its optimiser; its first axis is the picture, or 1 if a batch shares it."""
    assert isinstance(fitting.subject, LatentSubject)
    yield "z", fitting.subject.z, fitting.optimiser
    if isinstance(fitting.fake, FakeScore):
        for index, parameter in enumerate(fitting.fake.parameters):
            yield f"fake.{index}", parameter, fitting.fake.optimiser


def capture(fitting: Fitting, picture: int) -> PictureState:
    """Return a copy of the state of one picture of the batch."""
    assert isinstance(fitting.subject, LatentSubject)
    tensors = {
        "z_source": fitting.subject.z_source[picture],
        "generator": fitting.rng[picture].get_state(),
    }
    for name, parameter, optimiser in named_groups(fitting):
        tensors[name] = parameter.data[picture % len(parameter)]
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}.{key}"] = value[picture % len(parameter)] if value.shape == parameter.shape else value
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    return PictureState(fitting.iteration, copies)


def restore(fitting: Fitting, states: Sequence[PictureState]) -> None:
    """Put saved states, one per picture and all of the same iteration, into a freshly assembled run.

    Raises:
        ConfigError: a state belongs to another configuration.
    """
    if len({state.iteration for state in states}) != 1:
        raise ConfigError("pictures of one batch must have come equally far")
    fitting.iteration = states[0].iteration
    for generator, state in zip(fitting.rng, states, strict=True):
        generator.set_state(state.tensors["generator"])
    for name, parameter, optimiser in named_groups(fitting):
        parameter.data.copy_(gathered(states, name, parameter))
        keys = [
            key for key in states[0].tensors if key.startswith(f"{name}.") and key.count(".") == name.count(".") + 1
        ]
        optimiser.state[parameter] = {key.removeprefix(f"{name}."): moment(states, key, parameter) for key in keys}


def gathered(states: Sequence[PictureState], name: str, like: Tensor) -> Tensor:
    """Stack one tensor of every picture, shaped and placed like `like`.

    Raises:
        ConfigError: a tensor is missing or has another shape.
    """
    try:
        stacked = torch.stack([state.tensors[name] for state in states[: len(like)]])
    except KeyError as error:
        raise ConfigError(f"the saved state has no {name!r}", hint="it was made by another configuration") from error
    if stacked.shape != like.shape:
        raise ConfigError(
            f"the saved {name!r} has shape {tuple(stacked.shape)}, the run needs {tuple(like.shape)}",
            hint="it was made by another configuration",
        )
    return stacked.to(like)


def moment(states: Sequence[PictureState], key: str, parameter: Tensor) -> Tensor:
    """Return an optimiser's moment of all pictures, or its step count, which they share."""
    first = states[0].tensors[key]
    return first.clone() if first.ndim == 0 else gathered(states, key, parameter)


def source_latents(states: Sequence[PictureState]) -> Latent:
    """Return the source latents of saved states, [batch, c, h, w].

    Raises:
        ConfigError: a state has none, or they differ in size.
    """
    latents = [state.tensors.get("z_source") for state in states]
    if any(latent is None for latent in latents):
        raise ConfigError("the saved state has no 'z_source'", hint="it was made by another configuration")
    found = [latent for latent in latents if latent is not None]
    if len({latent.shape for latent in found}) != 1:
        raise ConfigError("pictures of one batch must have latents of one size", hint="resume them one by one")
    return torch.stack(found)
