"""The noise schedule: how much signal and noise a timestep holds, and how to convert predictions.

Letters: `abar_t` is the cumulative product of `1 - beta_t`; `z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.method.types import Draw, Latent, Noise, PredictionType, Timesteps

Coefficient = Float[Tensor, "batch 1 1 1"]


@dataclass(frozen=True)
class NoiseSchedule:
    """A frozen discrete schedule on a sparser grid of timesteps.

    Attributes:
        betas: variance of each single step, t = 0 .. T-1, float32 or float64, shape [T].
        stride: distance between neighbouring points of the grid, `t_prev = t - stride`.
            The grid of 500 points of a model with 1000 steps is t = 2k + 1 and has stride 2.
    """

    betas: Float[Tensor, " timesteps"]
    stride: int = 2

    @cached_property
    def alphas_cumprod(self) -> Float[Tensor, " timesteps"]:
        """abar_t for t = 0 .. T-1."""
        return torch.cumprod(1 - self.betas, dim=0)

    def double(self) -> NoiseSchedule:
        """Return the same schedule in float64."""
        return NoiseSchedule(self.betas.double(), self.stride)

    def alpha_bar(self, t: Timesteps) -> Coefficient:
        """Return abar_t, shaped to multiply latents; 1 for t < 0, where no noise is left."""
        table = self.alphas_cumprod.to(t.device)
        known = table[t.clamp(min=0)]
        return torch.where(t < 0, torch.ones_like(known), known).view(-1, 1, 1, 1)

    def beta(self, t: Timesteps) -> Coefficient:
        """Return the variance of the single step from t - 1 to t."""
        return self.betas.to(t.device)[t].view(-1, 1, 1, 1)

    def alpha(self, t: Timesteps) -> Coefficient:
        """Return the signal's factor sqrt(abar_t)."""
        return self.alpha_bar(t).sqrt()

    def sigma(self, t: Timesteps) -> Coefficient:
        """Return the noise's factor sqrt(1 - abar_t)."""
        return (1 - self.alpha_bar(t)).sqrt()

    def posterior_variance(self, t: Timesteps) -> Coefficient:
        """Return sigma_t^2 = (1 - abar_prev) / (1 - abar_t) beta_t (METHOD "One step", w_t).

        `prev` is the previous point of the grid while beta_t belongs to a single step, as in the released
        code of SMS and PDS.
        """
        abar_t, abar_prev = self.alpha_bar(t), self.alpha_bar(t - self.stride)
        return (1 - abar_prev) / (1 - abar_t) * self.beta(t)

    def add_noise(self, z: Latent, eps: Noise, t: Timesteps) -> Latent:
        """Return z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps."""
        return self.alpha(t) * z + self.sigma(t) * eps

    def draw(self, z: Latent, z_source: Latent, *, t: Timesteps, eps: Noise) -> Draw:
        """Noise a picture and its source with the same eps at the same t; gradients stop here."""
        z, z_source = z.detach(), z_source.detach()
        return Draw(
            z=z,
            z_source=z_source,
            t=t,
            eps=eps,
            z_t=self.add_noise(z, eps, t),
            z_source_t=self.add_noise(z_source, eps, t),
        )

    def to_eps(self, output: Tensor, kind: PredictionType, z_t: Latent, t: Timesteps) -> Noise:
        """Convert what a network predicts to the noise in z_t.

        epsilon: itself. v_prediction: eps = sqrt(abar_t) v + sqrt(1 - abar_t) z_t. sample (the clean latent
        z): eps = (z_t - sqrt(abar_t) z) / sqrt(1 - abar_t).
        """
        match kind:
            case "epsilon":
                return output
            case "v_prediction":
                return self.alpha(t) * output + self.sigma(t) * z_t
            case "sample":
                return (z_t - self.alpha(t) * output) / self.sigma(t)
            case _:
                assert_never(kind)

    def flow_time(self, t: Timesteps) -> Coefficient:
        """Return s = sigma_t / (alpha_t + sigma_t), where x_s = (1 - s) z + s eps is as noisy as z_t.

        The signal-to-noise ratio ((1 - s) / s)^2 of a rectified flow is alpha_t^2 / sigma_t^2 there.
        """
        return self.sigma(t) / (self.alpha(t) + self.sigma(t))

    def to_flow(self, z_t: Latent, t: Timesteps) -> Latent:
        """Return x_s = z_t / (alpha_t + sigma_t), the same noised latent as a rectified flow has it at `flow_time`."""
        return z_t / (self.alpha(t) + self.sigma(t))

    def velocity_to_eps(self, v: Tensor, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise that a rectified flow's velocity v = eps - z at x_s implies, eps = x_s + (1 - s) v.

        Source: x_s = (1 - s) z + s eps with z = eps - v put in ("Flow Straight and Fast", ICLR 2023, equation 1).
        """
        return self.to_flow(z_t, t) + (1 - self.flow_time(t)) * v

    def to_clean(self, eps: Noise, z_t: Latent, t: Timesteps) -> Latent:
        """Return the clean latent that a noise prediction implies, (z_t - sigma_t eps) / alpha_t."""
        return (z_t - self.sigma(t) * eps) / self.alpha(t)


@dataclass(frozen=True)
class OnePoint(NoiseSchedule):
    """One timestep of a schedule, whose abar_t is a constant where a network is exported with it.

    Attributes:
        value: abar_t, [1, 1, 1, 1].
    """

    value: Coefficient = field(kw_only=True)

    @classmethod
    def of(cls, schedule: NoiseSchedule, timestep: int) -> OnePoint:
        """Return one timestep of a schedule."""
        return cls(schedule.betas, schedule.stride, value=schedule.alpha_bar(torch.tensor([timestep])))

    def alpha_bar(self, t: Timesteps) -> Coefficient:
        """Return abar_t of the timestep, which t must be."""
        return self.value.expand(t.shape[0], 1, 1, 1)


Weight = Callable[[NoiseSchedule, Timesteps], Coefficient]
"""A factor per sample that depends on the timestep alone."""


def posterior_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """w_t = sigma_t^2, the weight of SMS."""
    return schedule.posterior_variance(t)


def noise_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """w_t = 1 - abar_t, the weight of SDS and VSD in DreamFusion and ProlificDreamer."""
    return 1 - schedule.alpha_bar(t)


def clean_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """w_t = sqrt((1 - abar_t) / abar_t): a difference of noise predictions in units of the clean latent.

    w_t (eps_a - eps_b) = D_b - D_a with D = (z_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), the predicted clean latent, so
    that plain gradient descent has a learning rate in parts of the way from one prediction to the other.
    """
    return schedule.sigma(t) / schedule.alpha(t)


def unit_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """w_t = 1, the weight of DDS."""
    return torch.ones_like(schedule.alpha_bar(t))


def alpha_bar_squared_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """abar_t^2, the weight of the fake score's loss in the released code of SMS."""
    return schedule.alpha_bar(t).square()


def min_snr_weight(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """min(SNR, 5) / SNR with SNR = abar_t / (1 - abar_t): Min-SNR weighting of a noise prediction's loss.

    Source: "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023, section 3.4, gamma = 5.
    """
    abar = schedule.alpha_bar(t)
    snr = abar / (1 - abar)
    return snr.clamp(max=5.0) / snr
