"""The fake score: a small adapter trained during the run to denoise the current picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stylescore.method.objective import NoiseSampler, gaussian
from stylescore.method.schedule import NoiseSchedule, Weight, alpha_bar_squared_weight
from stylescore.method.scores import NoisePredictor
from stylescore.method.timesteps import TimestepSampler
from stylescore.method.types import FakeStep, Latent, Noise, PerSample, Rng, Timesteps


def denoising_loss(eps_hat: Noise, eps: Noise, weight: Tensor) -> PerSample:
    """Weight mean (eps_hat - eps)^2 per sample; with weight abar_t^2 it is ||abar_t (eps_hat - eps)||^2."""
    return (weight * (eps_hat - eps).square()).flatten(1).mean(dim=1)


class FakeTraining(Protocol):
    """Trains the fake score on the current picture, once per iteration."""

    def __call__(self, z: Latent, *, progress: float, rng: Rng) -> FakeStep:
        """Take one training step on the detached latent z."""
        ...

    def predict(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return a prediction that `learn` can train on."""
        ...

    def learn(self, eps_hat: Noise, eps: Noise, t: Timesteps) -> FakeStep:
        """Take one training step with a prediction already made and the noise it should have found."""
        ...


Augment = Callable[[Latent, Rng], Latent]
"""Returns other views of latents, sample n drawn from generator n."""


def identity(z: Latent, rng: Rng) -> Latent:
    """Return the latent itself."""
    del rng
    return z


def random_shift(z: Latent, rng: Rng) -> Latent:
    """Return each latent shifted around its edges by a random number of cells, and mirrored half of the time.

    An adapter that sees a picture nowhere twice in the same place cannot memorize it.
    """
    return torch.stack([_random_shift_of_one(sample, generator) for sample, generator in zip(z, rng, strict=True)])


def _random_shift_of_one(sample: Tensor, generator: torch.Generator) -> Tensor:
    """Return one latent [c, h, w] as `random_shift` does."""
    down, across, mirror = torch.rand(3, generator=generator).tolist()
    height, width = sample.shape[-2:]
    moved = sample.roll((int(down * height), int(across * width)), dims=(-2, -1))
    return moved.flip(-1) if mirror < 0.5 else moved


@dataclass(frozen=True, kw_only=True)
class FakeScore:
    """Denoising training of the fake score's parameters, and of nothing else.

    Attributes:
        predictor: the fake model's conditional prediction, differentiable in `parameters`. The
            unconditional half is never computed: it does not enter the loss.
        parameters: the adapter's parameters.
        optimiser: over `parameters`.
        schedule: noise schedule of the diffusion model.
        timesteps: sampler; the released code keeps it wide while the picture's narrows.
        weight: factor of the squared error.
        noise: source of the noise.
        augment: what it is trained on instead of the latent itself.
    """

    predictor: NoisePredictor
    parameters: tuple[nn.Parameter, ...]
    optimiser: Optimizer
    schedule: NoiseSchedule
    timesteps: TimestepSampler
    weight: Weight = alpha_bar_squared_weight
    noise: NoiseSampler = gaussian
    augment: Augment = identity

    def predict(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return the conditional prediction, differentiable in `parameters`."""
        with torch.enable_grad():
            return self.predictor(z_t.detach(), t)

    def __call__(self, z: Latent, *, progress: float, rng: Rng) -> FakeStep:
        """Draw t, a view of z, and eps; predict and learn."""
        t = self.timesteps(progress, rng).to(z.device)
        z = self.augment(z.detach(), rng)
        eps = self.noise(z, rng)
        return self.learn(self.predict(self.schedule.add_noise(z, eps, t), t), eps, t)

    def learn(self, eps_hat: Noise, eps: Noise, t: Timesteps) -> FakeStep:
        """Step the optimiser once, unless loss or gradient is not finite."""
        loss = denoising_loss(eps_hat, eps, self.weight(self.schedule, t))
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss.sum())
        norms = [parameter.grad.norm() for parameter in self.parameters if parameter.grad is not None]
        finite = bool(torch.stack([loss.detach().sum(), *norms]).isfinite().all())
        if finite:
            self.optimiser.step()
        return FakeStep(t=t, loss=loss.detach(), finite=finite)
