"""The alternating loop: one step of the subject, one of the fake score. It yields and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from stylescore.errors import NonFiniteError, memory_limit
from stylescore.method.fake_score import FakeTraining
from stylescore.method.objective import Objective
from stylescore.method.scores import PassCounter, Scores
from stylescore.method.subjects import Subject
from stylescore.method.types import FakeStep, Rng, Step


@dataclass(frozen=True)
class Growth:
    """A change of the latents' size in the midst of a run.

    Attributes:
        at: iterations done when it is due.
        apply: gives the run larger latents, in place.
    """

    at: int
    apply: Callable[[Fitting], None]


@dataclass(kw_only=True)
class Fitting:
    """Everything a run consists of, and how far it has come.

    Attributes:
        subject: what is fitted.
        objective: how a step is made.
        scores: what the objective evaluates.
        optimiser: over `subject.parameters()`.
        learning_rate: of the subject's optimiser, as a function of the 0-based iteration.
        fake: training of the fake score, or `None` for methods without one.
        shared: whether the gradient takes the prediction that the fake score is trained on: one draw, one pass for
            both, instead of a pass without gradient and a training step on a draw of its own.
        rng: one CPU generator per sample.
        iterations: length of the run.
        counter: passes through the denoising network.
        iteration: iterations done.
        growth: a change of size that is still to come.
    """

    subject: Subject
    objective: Objective
    scores: Scores
    optimiser: Optimizer
    learning_rate: Callable[[int], float]
    fake: FakeTraining | None
    rng: Rng
    iterations: int
    shared: bool = False
    counter: PassCounter = field(default_factory=PassCounter)
    iteration: int = 0
    growth: Growth | None = None


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
        yield _iterate(fitting)


@torch.inference_mode(False)
@torch.enable_grad()
def _iterate(fitting: Fitting) -> Iteration:
    """Take one iteration, also where the caller has switched gradients off."""
    before = fitting.counter.snapshot()
    learning_rate = fitting.learning_rate(fitting.iteration)
    with memory_limit("computing an iteration"):
        if fitting.growth is not None and fitting.iteration >= fitting.growth.at:
            _grow(fitting, fitting.growth)
        step, fake = _steps(fitting, learning_rate)
    forward, trained = fitting.counter.snapshot()
    fitting.iteration += 1
    return Iteration(
        index=fitting.iteration - 1,
        step=step,
        fake=fake,
        learning_rate=learning_rate,
        forward_passes=forward - before[0],
        trained_passes=trained - before[1],
    )


def _grow(fitting: Fitting, growth: Growth) -> None:
    """Let a run go on with larger latents."""
    growth.apply(fitting)
    fitting.growth = None


def _steps(fitting: Fitting, learning_rate: float) -> tuple[Step, FakeStep | None]:
    """Move the subject and train the fake score, from one draw or from two."""
    if fitting.shared and fitting.fake is not None:
        return _shared_step(fitting, fitting.fake, learning_rate)
    return subject_step(fitting, learning_rate), fake_step(fitting)


def _progress(fitting: Fitting) -> float:
    """Return the part of the run that is over, in [0, 1)."""
    return fitting.iteration / fitting.iterations


def subject_step(fitting: Fitting, learning_rate: float) -> Step:
    """Move the subject once."""
    z, z_source = fitting.subject.draw(fitting.rng)
    step = fitting.objective(z, z_source, fitting.scores, progress=_progress(fitting), rng=fitting.rng)
    _move_subject(fitting, step, learning_rate)
    return step


def _move_subject(fitting: Fitting, step: Step, learning_rate: float) -> None:
    """Step the subject's optimiser along a step's gradient.

    Raises:
        NonFiniteError: the gradient is not finite; nothing has moved.
    """
    fitting.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(step.loss.sum())
    gradients = [p.grad for p in fitting.subject.parameters() if p.grad is not None]
    _check_finite([step.gradient, *gradients], fitting, step.t)
    for group in fitting.optimiser.param_groups:
        group["lr"] = learning_rate
    fitting.optimiser.step()


def _shared_step(fitting: Fitting, training: FakeTraining, learning_rate: float) -> tuple[Step, FakeStep]:
    """Move the subject, then train the fake score on the prediction that moved it."""
    objective = fitting.objective
    z, z_source = fitting.subject.draw(fitting.rng)
    draw = objective.draw(z, z_source, progress=_progress(fitting), rng=fitting.rng)
    eps_hat = training.predict(draw.z_t, draw.t)
    step = objective.at(draw, z, fitting.scores, known={"fake": eps_hat.detach()})
    _move_subject(fitting, step, learning_rate)
    fake = training.learn(eps_hat, draw.eps, draw.t)
    _check_trained(fake, fitting)
    return step, fake


def fake_step(fitting: Fitting) -> FakeStep | None:
    """Train the fake score once on where the subject stands now."""
    if fitting.fake is None:
        return None
    z, _ = fitting.subject.draw(fitting.rng)
    step = fitting.fake(z, progress=_progress(fitting), rng=fitting.rng)
    _check_trained(step, fitting)
    return step


def _check_trained(step: FakeStep, fitting: Fitting) -> None:
    """Raise `NonFiniteError` if a training step found something that is not finite."""
    if not step.finite:
        raise NonFiniteError("the fake score", iteration=fitting.iteration, timesteps=step.t.tolist())


def _check_finite(tensors: list[Tensor], fitting: Fitting, t: Tensor) -> None:
    """Raise `NonFiniteError` naming the step and t if any entry of a gradient is NaN or infinite."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise NonFiniteError("the gradient", iteration=fitting.iteration, timesteps=t.tolist())
