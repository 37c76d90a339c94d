"""The training loop of a generator, which yields after every step; it neither prints nor writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylescore.errors import NonFiniteError, memory_limit
from stylescore.method.optimisers import learning_rate
from stylescore.method.types import Latent, PerSample
from stylescore.training.generator.average import copy_weights, put_weights, update_average
from stylescore.training.generator.batches import Batch, Samples, StepBatches, collate, step_generators
from stylescore.training.generator.config import GeneratorTrainingConfig, MatchingConfig, RegressionConfig
from stylescore.training.generator.losses import Matching, Regression
from stylescore.training.generator.measure import measure_matching, measure_regression
from stylescore.training.generator.networks import Kind, Painting, PixelPainting
from stylescore.training.generator.optimiser import NetworkOptimiser
from stylescore.training.generator.stability import disturb, instability
from stylescore.training.process import Process

Phase = Literal["regression", "fake", "matching"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Data:
    """What is drawn in each phase, and what the training is measured by.

    Attributes:
        pairs: of the first phase: pairs, or photos that stand for their own pictures.
        photos: of the phases after it.
        held_out: pairs or photos of the held-out photos.
    """

    pairs: Samples
    photos: Samples
    held_out: Samples


@dataclass(kw_only=True)
class Trainer:
    """All parts of a training, and how far it has come.

    Attributes:
        config: the numbers, resolved.
        process: this one.
        kind: what the generator is.
        network: the generator.
        average: the same with averaged weights, in evaluation mode; these are what is written.
        optimiser: of the network, begun anew in each phase.
        regression: loss of the first phase.
        matching: step of the last phase, and the training of the fake score.
        fake_optimiser: over the fake score's parameters, if the method has one.
        critic_optimiser: over the critic's parameters, if the first phase has one.
        data: what is drawn.
        step: steps done in all phases.
        phase: number of the phase in progress; 3 when all are over.
        phase_step: steps done in it.
        best: weights with the smallest measure of the phase; `None` before the first one.
        best_measure: their measure.
        misses: measures since then.
    """

    config: GeneratorTrainingConfig
    process: Process
    kind: Kind
    network: nn.Module
    average: nn.Module
    optimiser: NetworkOptimiser
    regression: Regression
    matching: Matching
    fake_optimiser: Optimizer | None
    critic_optimiser: Optimizer | None
    data: Data
    step: int = 0
    phase: int = 0
    phase_step: int = 0
    best: dict[str, Tensor] | None = None
    best_measure: float = math.inf
    misses: int = 0

    @property
    def phase_length(self) -> int:
        """Steps of the phase in progress, at most."""
        return (*self.config.lengths, 0)[self.phase]

    @property
    def phase_name(self) -> Phase:
        """The phase in progress."""
        return PHASES[self.phase]

    @property
    def settings(self) -> RegressionConfig | MatchingConfig:
        """The numbers of the phase in progress; the fake score is trained with those of the matching."""
        return self.config.regression if self.phase_name == "regression" else self.config.matching

    @property
    def measure_every(self) -> int:
        """Steps between measures in the phase in progress; none while the generator stays as it is."""
        return 0 if self.phase_name == "fake" else self.config.measure_every

    @property
    def chooses(self) -> bool:
        """Whether the measure chooses the weights of the phase in progress; one that prefers the mean must not."""
        return self.phase_name != "regression" or self.regression.critic is None

    @property
    def progress(self) -> float:
        """The part of the phase that is over, in [0, 1)."""
        return self.phase_step / self.phase_length


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """What happened in one step, over all processes.

    Attributes:
        index: 0-based, over all phases.
        phase: regression, fake or matching.
        loss: mean over the batch.
        parts: what it consists of, by name, and the loss of the fake score; in its own phase there are none.
        learning_rate: of the step.
        gradient_norm: before it was clipped.
        t: timesteps of the method's direction.
        measure: of the averaged weights on the held-out photos, if it was taken after this step; smaller is better.
        best: smallest measure of the phase up to here; `None` before the first.
        ends_phase: whether the phase ended with this step.
    """

    index: int
    phase: Phase
    loss: float
    parts: dict[str, float]
    learning_rate: float
    gradient_norm: float
    t: tuple[int, ...]
    measure: float | None
    best: float | None
    ends_phase: bool


@dataclass
class _Sums:
    """Sums over the parts of a step."""

    values: dict[str, Tensor] = field(default_factory=dict)
    t: list[Tensor] = field(default_factory=list)

    def add(self, **losses: Tensor) -> None:
        """Add per-sample losses by name."""
        for name, loss in losses.items():
            self.values[name] = self.values.get(name, torch.zeros((), device=loss.device)) + loss.detach().sum()

    def gather(self, process: Process, batch: int) -> dict[str, float]:
        """Return the means over the batch of all processes."""
        names = list(self.values)
        total = process.accelerator.reduce(torch.stack([self.values[name] for name in names]), "sum") / batch
        return dict(zip(names, total.tolist(), strict=True))


def make_optimiser(config: GeneratorTrainingConfig, network: nn.Module, phase: int = 0) -> NetworkOptimiser:
    """Return what moves the network in a phase, the first one or those after it."""
    settings = config.matching if phase else config.regression
    return NetworkOptimiser(network, settings.optimiser, config.beta1)


def train(trainer: Trainer) -> Iterator[TrainStep]:
    """Run from where the trainer stands to the end of all phases; at each yield it is a complete state.

    Raises:
        NonFiniteError: a loss or gradient is not finite; what was not finite has moved nothing.
    """
    while trainer.phase < len(PHASES):
        if trainer.phase_step >= trainer.phase_length:
            end_phase(trainer)
        else:
            yield from _run_phase(trainer)


def _run_phase(trainer: Trainer) -> Iterator[TrainStep]:
    """Run the phase in progress to its end."""
    phase = trainer.phase
    if trainer.phase_step == 0 and trainer.measure_every and trainer.chooses:
        _compare(trainer, take_measure(trainer))
    batches = step_batches(trainer)
    for parts in batches.steps(trainer.phase_step, trainer.phase_length, trainer.config.workers):
        with memory_limit("computing a step"):
            step = _take_step(trainer, parts)
        yield step
        if trainer.phase != phase:
            return


def step_batches(trainer: Trainer, phase: int | None = None) -> StepBatches:
    """Return the batches of the phase in progress, or of another one, for this process."""
    config, process = trainer.config, trainer.process
    number = trainer.phase if phase is None else phase
    return StepBatches(
        samples=trainer.data.pairs if PHASES[number] == "regression" else trainer.data.photos,
        seed=config.run.seed,
        phase=number,
        batch=trainer.settings.batch,
        rank=process.rank,
        processes=process.count,
        accumulate=config.accumulate,
    )


def _take_step(trainer: Trainer, parts: Sequence[Batch]) -> TrainStep:
    """Take a step of the phase in progress; measure and end the phase if that is due."""
    phase, sums = trainer.phase_name, _Sums()
    shown = [part.to(trainer.process.device) for part in parts]
    batch = step_batches(trainer).batch
    moved = (_warm_up_fake if phase == "fake" else _move_generator)(trainer, shown, batch, sums)
    losses = sums.gather(trainer.process, batch)
    trainer.step += 1
    trainer.phase_step += 1
    measure = _measure_if_due(trainer)
    best = None if trainer.best is None else trainer.best_measure
    ends = trainer.phase_step >= trainer.phase_length or _is_out_of_patience(trainer)
    if ends:
        end_phase(trainer)
    return TrainStep(
        index=trainer.step - 1,
        phase=phase,
        loss=losses.pop("fake" if phase == "fake" else "loss"),
        parts=losses,
        learning_rate=moved.learning_rate,
        gradient_norm=moved.gradient_norm,
        t=moved.t,
        measure=measure,
        best=best,
        ends_phase=ends,
    )


@dataclass(frozen=True)
class _Moved:
    """What moved the weights of a step."""

    learning_rate: float
    gradient_norm: float
    t: tuple[int, ...]


def _move_generator(trainer: Trainer, parts: Sequence[Batch], batch: int, sums: _Sums) -> _Moved:
    """Move the generator once, then the fake score in the last phase, then the average."""
    config, peak = trainer.config, trainer.settings.learning_rate
    rate = learning_rate(peak, trainer.phase_length, warmup=config.warmup, cosine_length=1.0)(trainer.phase_step)
    trainer.optimiser.set_rate(rate)
    trainer.optimiser.zero_grad()
    latents = [_accumulate(trainer, part, batch, sums) for part in parts]
    t = _gather_timesteps(trainer, sums)
    norm = _move(trainer, list(trainer.network.parameters()), trainer.optimiser, t, "the gradient", config.clip_norm)
    if trainer.phase_name == "regression" and trainer.critic_optimiser is not None:
        _train_critic(trainer, parts, latents, batch, sums)
    if trainer.phase_name == "matching" and trainer.fake_optimiser is not None:
        for number in range(config.matching.fake_steps):
            _train_fake(trainer, parts, latents, batch, number, sums)
    update_average(trainer.average, trainer.network, config.ema, trainer.step)
    return _Moved(rate, norm, t)


def _warm_up_fake(trainer: Trainer, parts: Sequence[Batch], batch: int, sums: _Sums) -> _Moved:
    """Train the fake score on the generator's pictures, which stay as they are."""
    with torch.no_grad():
        latents = [_paint_trained(trainer, part).latent for part in parts]
    norm, t = _train_fake(trainer, parts, latents, batch, 0, sums)
    sums.t.append(t)
    return _Moved(trainer.matching.method.fake.lr, norm, _gather_timesteps(trainer, sums))


def _autocast(trainer: Trainer) -> AbstractContextManager[Any]:
    """Return the precision of the generator: bfloat16 where the networks have it, else float32."""
    if trainer.process.dtype == torch.bfloat16:
        return torch.autocast(trainer.process.device.type, torch.bfloat16)
    return nullcontext()


def paint(trainer: Trainer, network: nn.Module, batch: Batch) -> Painting:
    """Return what a network makes of a batch, float32."""
    with _autocast(trainer):
        return trainer.kind.paint(network, batch)


def paint_as_applied(trainer: Trainer, network: nn.Module, batch: Batch) -> Painting:
    """Return what the file asks a network for: its passes, mixed with the photos by its strength.

    It is differentiable in what the last pass does.
    """
    config, photo = trainer.config, batch.photo
    with torch.no_grad():
        for _ in range(config.passes - 1):
            photo = paint(trainer, network, replace(batch, photo=photo)).pictures.clamp(0, 1)
    last = paint(trainer, network, replace(batch, photo=photo))
    if config.strength == 1:
        return last
    return PixelPainting(torch.lerp(batch.photo, last.pictures, config.strength), trainer.matching.networks)


def _paint_trained(trainer: Trainer, batch: Batch) -> Painting:
    """Return the pictures that the phase in progress is about: of one pass, or as the file asks for them."""
    if trainer.phase_name == "regression" or not trainer.config.matching.as_applied:
        return paint(trainer, trainer.network, batch)
    return paint_as_applied(trainer, trainer.network, batch)


def _accumulate(trainer: Trainer, part: Batch, batch: int, sums: _Sums) -> Latent | None:
    """Add the gradient of one part of a step; return the latents of its pictures where another network needs them."""
    place = (trainer.phase, trainer.phase_step)
    rng = step_generators(trainer.config.run.seed, "score", place, part.positions)
    painting = _paint_trained(trainer, part)
    if trainer.phase_name == "regression":
        compared = trainer.regression(painting, part, rng)
        loss = trainer.regression.loss(compared)
        sums.add(**compared)
        z = None if trainer.critic_optimiser is None else painting.latent.detach()
    else:
        step, z = trainer.matching.step(painting, part, trainer.progress, rng)
        loss = step.loss
        sums.add(score=step.score_loss, spectrum=step.spectrum_loss)
        sums.t.append(step.t)
    if trainer.config.stability:
        moved = _instability(trainer, painting, part)
        loss = loss + trainer.config.stability * moved
        sums.add(stability=moved)
    sums.add(loss=loss)
    torch.autograd.backward(loss.sum() / batch)
    if trainer.phase_name == "matching" and trainer.config.matching.regression:
        _accumulate_pairs(trainer, part, batch, sums)
    return z


def _instability(trainer: Trainer, painting: Painting, part: Batch) -> PerSample:
    """Return how much the pictures of a part change, besides moving, when its photos move and are noised."""
    place = (trainer.phase, trainer.phase_step)
    disturbed, shifts = disturb(part, step_generators(trainer.config.run.seed, "stability", place, part.positions))
    return instability(painting.pictures, _paint_trained(trainer, disturbed).pictures, shifts)


def _accumulate_pairs(trainer: Trainer, part: Batch, batch: int, sums: _Sums) -> None:
    """Add the gradient of the first phase's loss on as many pairs as a part of the last phase has photos."""
    pairs = step_batches(trainer, 0)[trainer.phase_step]
    chosen = next(other for other in pairs if other.positions == part.positions).to(trainer.process.device)
    rng = step_generators(trainer.config.run.seed, "measure", (trainer.phase_step,), part.positions)
    distance = trainer.regression.without_critic
    loss = distance.loss(distance(paint(trainer, trainer.network, chosen), chosen, rng))
    sums.add(regression=loss)
    torch.autograd.backward(trainer.config.matching.regression * loss.sum() / batch)


def _train_critic(
    trainer: Trainer, parts: Sequence[Batch], latents: Sequence[Latent | None], batch: int, sums: _Sums
) -> None:
    """Train the critic once on the pictures of a step and those of its pairs; the arguments are `_train_fake`'s."""
    regression, optimiser = trainer.regression, trainer.critic_optimiser
    assert regression.critic is not None
    assert optimiser is not None
    optimiser.zero_grad(set_to_none=True)
    for part, z in zip(parts, latents, strict=True):
        assert z is not None
        place = (trainer.phase, trainer.phase_step)
        rng = step_generators(trainer.config.run.seed, "critic", place, part.positions)
        loss = regression.critic_loss(z, part, rng)
        sums.add(critic=loss)
        torch.autograd.backward(loss.sum() / batch)
    _move(trainer, list(regression.critic.parameters()), optimiser, (), "the critic", None)


def _train_fake(
    trainer: Trainer, parts: Sequence[Batch], latents: Sequence[Latent | None], batch: int, number: int, sums: _Sums
) -> tuple[float, Tensor]:
    """Train the fake score once on the pictures of a step, with noise and timesteps of its own.

    Args:
        trainer: the training.
        parts: of the step.
        latents: of each part's pictures.
        batch: pictures in the step, over all processes.
        number: of the training in this step; each draws other noise and timesteps.
        sums: what the loss is added to, over the number of trainings.

    Returns:
        The norm of the gradient, and this process's timesteps.
    """
    matching, optimiser = trainer.matching, trainer.fake_optimiser
    assert matching.fake is not None
    assert optimiser is not None
    count = 1 if trainer.phase_name == "fake" else trainer.config.matching.fake_steps
    optimiser.zero_grad(set_to_none=True)
    drawn: list[Tensor] = []
    for part, z in zip(parts, latents, strict=True):
        assert z is not None
        place = (trainer.phase, trainer.phase_step, number)
        rng = step_generators(trainer.config.run.seed, "fake", place, part.positions)
        loss, t = matching.fake_loss(z, part.captions, trainer.progress, rng)
        sums.add(fake=loss / count)
        drawn.append(t)
        torch.autograd.backward(loss.sum() / batch)
    every = torch.cat(drawn)
    numbers = tuple(every.tolist())
    return _move(trainer, list(matching.fake.parameters), optimiser, numbers, "the fake score", None), every


def _move(
    trainer: Trainer,
    parameters: list[nn.Parameter],
    optimiser: Optimizer | NetworkOptimiser,
    t: tuple[int, ...],
    what: str,
    clip: float | None,
) -> float:
    """Add the gradients of all processes up, clip them, step an optimiser, and return the norm before the clipping.

    Raises:
        NonFiniteError: the gradient is not finite; nothing has moved.
    """
    sum_gradients(trainer.process, parameters)
    norm = float(nn.utils.clip_grad_norm_(parameters, math.inf if clip is None else clip))
    if not math.isfinite(norm):
        raise NonFiniteError(what, iteration=trainer.step, timesteps=t)
    optimiser.step()
    return norm


def sum_gradients(process: Process, parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, in one exchange."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if process.count == 1 or not gradients:
        return
    total = process.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _gather_timesteps(trainer: Trainer, sums: _Sums) -> tuple[int, ...]:
    """Return the timesteps of all processes' samples."""
    if not sums.t:
        return ()
    return tuple(trainer.process.accelerator.gather(torch.cat(sums.t)).tolist())


def _measure_if_due(trainer: Trainer) -> float | None:
    """Measure the averaged weights where that is due, and keep them if they are the phase's best."""
    every = trainer.measure_every
    if not every or (trainer.phase_step % every and trainer.phase_step < trainer.phase_length):
        return None
    measure = take_measure(trainer)
    if trainer.chooses:
        _compare(trainer, measure)
    return measure


def take_measure(trainer: Trainer) -> float:
    """Return the measure of the averaged weights in the phase in progress; smaller is better."""
    regression = trainer.phase_name == "regression"
    count, process = len(trainer.data.held_out), trainer.process
    total = torch.zeros((), device=process.device)
    for index in range(process.rank, count, process.count):
        rng = step_generators(trainer.config.run.seed, "measure", (), [index])
        sample = held_out_batch(trainer, index)
        with torch.no_grad():
            if regression:
                pictures = paint(trainer, trainer.average, sample).pictures
                total += measure_regression(trainer.regression, pictures, sample, rng)
            else:
                pictures = paint_as_applied(trainer, trainer.average, sample).pictures
                total += measure_matching(trainer.matching, trainer.regression, pictures, sample, rng)
    return float(process.accelerator.reduce(total, "sum")) / count


def held_out_batch(trainer: Trainer, index: int) -> Batch:
    """Return one held-out photo or pair as a batch of one."""
    rng = step_generators(trainer.config.run.seed, "hold", (), [index])[0]
    return collate([trainer.data.held_out.fixed(index, rng)], [index]).to(trainer.process.device)


def _compare(trainer: Trainer, measure: float) -> None:
    """Keep the averaged weights if their measure is the phase's smallest."""
    if measure < trainer.best_measure:
        trainer.best, trainer.best_measure, trainer.misses = copy_weights(trainer.average), measure, 0
    else:
        trainer.misses += 1


def _is_out_of_patience(trainer: Trainer) -> bool:
    return 0 < trainer.config.patience <= trainer.misses


def end_phase(trainer: Trainer) -> None:
    """Go on to the next phase with the best weights of this one, or the averaged ones where nothing was measured."""
    best = copy_weights(trainer.average) if trainer.best is None else trainer.best
    for network in (trainer.network, trainer.average):
        put_weights(network, best)
    trainer.phase, trainer.phase_step = trainer.phase + 1, 0
    trainer.optimiser = make_optimiser(trainer.config, trainer.network, trainer.phase)
    trainer.best, trainer.best_measure, trainer.misses = None, math.inf, 0
