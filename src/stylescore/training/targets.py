"""The target of a network's prediction, and the weight of each timestep.

Letters as in `stylescore.method.schedule`: `z_t = alpha_t z + sigma_t eps`, `alpha_t^2 = abar_t`,
`SNR_t = abar_t / (1 - abar_t)`.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from stylescore.method.schedule import Coefficient, NoiseSchedule
from stylescore.method.types import Latent, Noise, PerSample, PredictionType, Timesteps


def network_target(schedule: NoiseSchedule, kind: PredictionType, z: Latent, eps: Noise, t: Timesteps) -> Tensor:
    """Return what a network of this kind should predict at z_t; `NoiseSchedule.to_eps` is the inverse.

    epsilon: eps. v_prediction: v = alpha_t eps - sigma_t z. sample: z.
    """
    match kind:
        case "epsilon":
            return eps
        case "v_prediction":
            return schedule.alpha(t) * eps - schedule.sigma(t) * z
        case "sample":
            return z
        case _:
            assert_never(kind)


def min_snr_weight(schedule: NoiseSchedule, kind: PredictionType, t: Timesteps, gamma: float) -> Coefficient:
    """Return the Min-SNR factor of a squared error in the network's own output.

    epsilon: min(SNR, gamma) / SNR. v_prediction: min(SNR, gamma) / (SNR + 1). sample: min(SNR, gamma).
    The three are one weight, min(SNR, gamma) on the clean latent, because an error of the clean latent is
    sqrt(1 / SNR) times one of eps and sqrt(1 - abar) times one of v.

    Source: "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023, section 3.4.
    """
    snr = snr_at(schedule, t)
    match kind:
        case "epsilon":
            return (gamma / snr).clamp(max=1.0)
        case "v_prediction":
            return snr.clamp(max=gamma) / (snr + 1)
        case "sample":
            return snr.clamp(max=gamma)
        case _:
            assert_never(kind)


def plain_weight(schedule: NoiseSchedule, kind: PredictionType, t: Timesteps, gamma: float) -> Coefficient:
    """Return 1 for every timestep."""
    del kind, gamma
    return torch.ones_like(schedule.alpha_bar(t))


def snr_at(schedule: NoiseSchedule, t: Timesteps) -> Coefficient:
    """Return SNR_t = abar_t / (1 - abar_t)."""
    abar = schedule.alpha_bar(t)
    return abar / (1 - abar)


LOSSES = {"plain": plain_weight, "min_snr": min_snr_weight}


def weighted_error(output: Tensor, target: Tensor, weight: Coefficient) -> PerSample:
    """Return the weighted mean square of each sample's error, float32."""
    return (weight * (output.float() - target).square()).flatten(1).mean(1)
