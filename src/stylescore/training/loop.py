"""The training loop, a generator that yields after every step; it neither prints nor writes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.diffusion.families.base import Call
from stylescore.errors import NonFiniteError
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import Latent, PerSample, PredictionType, Timesteps
from stylescore.training.cache import Cache
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.draws import batch_members, make_generator
from stylescore.training.process import Process
from stylescore.training.targets import LOSSES, network_target, weighted_error


@dataclass(kw_only=True)
class Trainer:
    """All parts of a training, and how many steps are done.

    Attributes:
        unet: the base with its adapter, as accelerate prepared it.
        call: evaluates a network of its family.
        parameters: the adapter's, by name.
        optimiser: AdamW over them, as accelerate prepared it.
        process: this one.
        cache: encoded pictures and prompts.
        schedule: the base's noise schedule, with every timestep.
        prediction_type: what the base predicts.
        config: the numbers.
        step: steps done.
    """

    unet: Any
    call: Call
    parameters: dict[str, nn.Parameter]
    optimiser: Any
    process: Process
    cache: Cache
    schedule: NoiseSchedule
    prediction_type: PredictionType
    config: StyleTrainingConfig
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainStep:
    """What happened in one step, over all processes.

    Attributes:
        index: 0-based.
        loss: mean weighted squared error of the batch.
        learning_rate: of the step.
        gradient_norm: before it was clipped.
        t: timesteps drawn.
        pictures: numbers of the pictures in the batch.
    """

    index: int
    loss: float
    learning_rate: float
    gradient_norm: float
    t: tuple[int, ...]
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """This process's part of a batch: clean latents, noise, timesteps and prompts, on its device."""

    z: Latent
    eps: Latent
    t: Timesteps
    context: Conditioning


def learning_rate(config: StyleTrainingConfig, step: int) -> float:
    """Return the rate of a 0-based step: linear warm-up, then constant or a cosine that ends at 0."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    if config.rate_schedule == "constant":
        return config.learning_rate * rise
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def train(trainer: Trainer) -> Iterator[TrainStep]:
    """Run from `trainer.step` to the end; at each yield the trainer is a complete state.

    Raises:
        NonFiniteError: the loss is not finite; the adapter stays as it was.
    """
    while trainer.step < trainer.config.steps:
        step = _take_step(trainer)
        trainer.step += 1
        yield step


def _take_step(trainer: Trainer) -> TrainStep:
    """Draw a batch and update the adapter once."""
    config, accelerator = trainer.config, trainer.process.accelerator
    chosen = batch_members(config.seed, trainer.step, config.batch, trainer.cache.groups)
    batch = draw_batch(trainer, chosen)
    rate = learning_rate(config, trainer.step)
    for group in trainer.optimiser.param_groups:
        group["lr"] = rate
    losses = batch_loss(trainer, batch)
    every_loss, every_t = accelerator.gather((losses.detach(), batch.t))
    _require_finite(every_loss, every_t, trainer.step)
    trainer.optimiser.zero_grad(set_to_none=True)
    accelerator.backward(losses.mean())
    norm = accelerator.clip_grad_norm_(trainer.parameters.values(), config.clip_norm)
    trainer.optimiser.step()
    return TrainStep(
        index=trainer.step,
        loss=float(every_loss.mean()),
        learning_rate=rate,
        gradient_norm=float(norm),
        t=tuple(every_t.tolist()),
        pictures=tuple(chosen),
    )


def draw_batch(trainer: Trainer, chosen: list[int]) -> Batch:
    """Draw this process's consecutive part of a batch; each sample has a generator of its own."""
    size = len(chosen) // trainer.process.count
    positions = range(trainer.process.rank * size, (trainer.process.rank + 1) * size)
    rows = [_draw_sample(trainer, position, chosen[position]) for position in positions]
    latents, contexts = zip(*((row[:3], row[3]) for row in rows), strict=True)
    z, eps, t = (torch.cat(column).to(trainer.process.device) for column in zip(*latents, strict=True))
    return Batch(z, eps, t, concatenate(contexts).to(trainer.process.device))


def _draw_sample(trainer: Trainer, position: int, picture: int) -> tuple[Tensor, Tensor, Tensor, Conditioning]:
    """Return latent, noise, timestep and context of one sample, each with a batch axis of 1."""
    rng = make_generator(trainer.config.seed, "sample", trainer.step, position)
    t = torch.randint(len(trainer.schedule.betas), (1,), generator=rng)
    z, context = trainer.cache.draw(picture, rng)
    return z, torch.randn(z.shape, generator=rng), t, context


def batch_loss(trainer: Trainer, batch: Batch) -> PerSample:
    """Return each sample's weighted squared error in the network's own output."""
    schedule, kind, config = trainer.schedule, trainer.prediction_type, trainer.config
    z_t = schedule.add_noise(batch.z, batch.eps, batch.t)
    dtype = trainer.process.dtype
    output = trainer.call(trainer.unet, z_t.to(dtype), batch.t, batch.context.to(dtype=dtype))
    weight = LOSSES[config.loss](schedule, kind, batch.t, config.min_snr_gamma)
    return weighted_error(output, network_target(schedule, kind, batch.z, batch.eps, batch.t), weight)


def _require_finite(losses: Tensor, t: Tensor, step: int) -> None:
    """Raise `NonFiniteError` if a loss is NaN or infinite."""
    if not bool(losses.isfinite().all()):
        raise NonFiniteError("the training loss", iteration=step, timesteps=t.tolist())
