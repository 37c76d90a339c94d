"""The alternating loop: one step of the subject, one of the fake score. It yields and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from stylescore.errors import NonFiniteError
from stylescore.fake import FakeTraining
from stylescore.objective import Objective
from stylescore.scores import PassCounter, Scores
from stylescore.subjects.base import Subject
from stylescore.types import FakeStep, Rng, Step


@dataclass(kw_only=True)
class Fitting:
    """Everything a run consists of, and how far it has come.

    Attributes:
        subject: what is fitted.
        objective: how a step is made.
        scores: whom the objective asks.
        optimiser: over `subject.parameters()`.
        learning_rate: of the subject's optimiser, as a function of the 0-based iteration.
        fake: training of the fake score, or `None` for methods without one.
        rng: one CPU generator per sample.
        iterations: length of the run.
        counter: passes through the denoising network.
        iteration: iterations done.
    """

    subject: Subject
    objective: Objective
    scores: Scores
    optimiser: Optimizer
    learning_rate: Callable[[int], float]
    fake: FakeTraining | None
    rng: Rng
    iterations: int
    counter: PassCounter = field(default_factory=PassCounter)
    iteration: int = 0


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """What happened in one iteration.

    Attributes:
        index: 0-based.
        step: the subject's step.
        fake: the fake score's step, if there was one.
        learning_rate: with which the subject moved.
        forward_passes: samples the network evaluated without gradient in this iteration.
        trained_passes: samples it evaluated with gradient.
    """

    index: int
    step: Step
    fake: FakeStep | None
    learning_rate: float
    forward_passes: int
    trained_passes: int


def fit(fitting: Fitting) -> Iterator[Iteration]:
    """Run from `fitting.iteration` to the end, yielding after every iteration.

    At each yield `fitting` is a complete state that can be saved and continued.

    Raises:
        NonFiniteError: a gradient or the fake score's loss is not finite. What was not finite moves nothing,
            but the iteration it happened in is incomplete: the state at the last yield is the one to keep.
    """
    while fitting.iteration < fitting.iterations:
        before = fitting.counter.snapshot()
        learning_rate = fitting.learning_rate(fitting.iteration)
        step = subject_step(fitting, learning_rate)
        fake = fake_step(fitting)
        forward, trained = fitting.counter.snapshot()
        fitting.iteration += 1
        yield Iteration(
            index=fitting.iteration - 1,
            step=step,
            fake=fake,
            learning_rate=learning_rate,
            forward_passes=forward - before[0],
            trained_passes=trained - before[1],
        )


def progress_of(fitting: Fitting) -> float:
    """Return the part of the run that is over, in [0, 1)."""
    return fitting.iteration / fitting.iterations


def subject_step(fitting: Fitting, learning_rate: float) -> Step:
    """Move the subject once."""
    z, z_source = fitting.subject.draw(fitting.rng)
    step = fitting.objective(z, z_source, fitting.scores, progress=progress_of(fitting), rng=fitting.rng)
    fitting.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(step.loss.sum())
    gradients = [p.grad for p in fitting.subject.parameters() if p.grad is not None]
    require_finite([step.gradient, *gradients], fitting, step.t)
    for group in fitting.optimiser.param_groups:
        group["lr"] = learning_rate
    fitting.optimiser.step()
    return step


def fake_step(fitting: Fitting) -> FakeStep | None:
    """Train the fake score once on where the subject stands now."""
    if fitting.fake is None:
        return None
    z, _ = fitting.subject.draw(fitting.rng)
    step = fitting.fake(z, progress=progress_of(fitting), rng=fitting.rng)
    if not step.finite:
        raise NonFiniteError("the fake score", iteration=fitting.iteration, timesteps=step.t.tolist())
    return step


def require_finite(tensors: list[Tensor], fitting: Fitting, t: Tensor) -> None:
    """Raise `NonFiniteError` naming the step and t if any entry of a gradient is NaN or infinite."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise NonFiniteError("the gradient", iteration=fitting.iteration, timesteps=t.tolist())
