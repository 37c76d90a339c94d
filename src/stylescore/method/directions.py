"""Directions: what a method subtracts from the latent. One method, one formula, one class.

A direction names the scores it needs and is a pure function of their predictions, shaped like the latent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from stylescore.method.schedule import Coefficient, NoiseSchedule, Weight
from stylescore.method.scores import Predictions, ScoreName
from stylescore.method.types import Draw, Latent, Timesteps

SMALLEST_DISTANCE = 1e-6
"""Keeps the normalised direction finite where the picture is what the style predicts already."""


class Direction(Protocol):
    """Turns noise predictions at a draw into the gradient with respect to z."""

    @property
    def needs(self) -> Collection[ScoreName]:
        """The scores whose predictions it takes."""
        ...

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the direction, shaped like `draw.z`."""
        ...


@dataclass(frozen=True)
class StyleMatching:
    """SMS and VSD: w_t (style(z_t) - fake(z_t)) (paper, "Style Matching Objective").

    Attributes:
        schedule: noise schedule of the diffusion model.
        weight: w_t.
        anchor: rho in [0, 1]. The distribution of one picture is a point, whose exact score predicts the drawn noise;
            fake becomes (1 - rho) fake + rho eps. 0 is the paper's formula, 1 is `ScoreDistillation`.
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ("style", "fake")
    schedule: NoiseSchedule
    weight: Weight
    anchor: float = 0.0

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the weighted difference of the two noise predictions."""
        fake = torch.lerp(eps["fake"], draw.eps, self.anchor)
        return self.weight(self.schedule, draw.t) * (eps["style"] - fake)


@dataclass(frozen=True)
class ScoreDistillation:
    """SDS: w_t (style(z_t) - eps) (DreamFusion, arXiv 2209.14988, equation 3)."""

    needs: ClassVar[tuple[ScoreName, ...]] = ("style",)
    schedule: NoiseSchedule
    weight: Weight

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the weighted difference to the drawn noise."""
        return self.weight(self.schedule, draw.t) * (eps["style"] - draw.eps)


@dataclass(frozen=True)
class DeltaDenoising:
    """DDS: w_t (style(z_t) - source(z_source_t)), same t and eps in both halves (arXiv 2304.07090, eq. 3)."""

    needs: ClassVar[tuple[ScoreName, ...]] = ("style", "source")
    schedule: NoiseSchedule
    weight: Weight

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the weighted difference to the source's prediction."""
        return self.weight(self.schedule, draw.t) * (eps["style"] - eps["source"])


@dataclass(frozen=True)
class Normalised:
    """A direction in clean-latent units over mean |z - D_style|, per sample (DMD, arXiv 2311.18828, equation 8).

    Neither the timestep nor the latent's unit changes the length of a step, so one learning rate serves all models.

    Attributes:
        direction: in clean-latent units, see `clean_weight`.
        schedule: noise schedule of the diffusion model.
    """

    direction: Direction
    schedule: NoiseSchedule

    @property
    def needs(self) -> Collection[ScoreName]:
        """What the direction needs, and the style."""
        return {*self.direction.needs, "style"}

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the direction, divided by each sample's mean distance to the style's clean prediction."""
        clean = self.schedule.to_clean(eps["style"], draw.z_t, draw.t)
        distance = (draw.z - clean).abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=SMALLEST_DISTANCE)
        return self.direction(draw, eps) / distance


def posterior_coefficients(schedule: NoiseSchedule, t: Timesteps) -> tuple[Coefficient, Coefficient]:
    """Return (psi, chi) of PDS in closed form (METHOD, "The other objectives").

    psi = (sqrt(abar_prev) - c0 - c1 sqrt(abar_t)) / sigma_t and chi = c0 sqrt((1 - abar_t) / abar_t) / sigma_t
    with c0 = sqrt(abar_prev) beta_t / (1 - abar_t), c1 = sqrt(1 - beta_t) (1 - abar_prev) / (1 - abar_t).
    The drawn noises of the two halves are shared and cancel. Computed in float64, where psi does not drown.
    """
    exact = schedule.double()
    abar_t, abar_prev, beta_t = exact.alpha_bar(t), exact.alpha_bar(t - exact.stride), exact.beta(t)
    sigma_t = exact.posterior_variance(t).sqrt()
    c0 = abar_prev.sqrt() * beta_t / (1 - abar_t)
    c1 = (1 - beta_t).sqrt() * (1 - abar_prev) / (1 - abar_t)
    psi = (abar_prev.sqrt() - c0 - c1 * abar_t.sqrt()) / sigma_t
    chi = c0 * ((1 - abar_t) / abar_t).sqrt() / sigma_t
    return psi, chi


@dataclass(frozen=True)
class PosteriorDistillation:
    """PDS: psi (z - z_source) + chi (style(z_t) - source(z_source_t)) (arXiv 2311.13831, section 4)."""

    needs: ClassVar[tuple[ScoreName, ...]] = ("style", "source")
    schedule: NoiseSchedule

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the difference of the two stochastic latents."""
        psi, chi = posterior_coefficients(self.schedule, draw.t)
        difference = eps["style"] - eps["source"]
        return psi.to(draw.z) * (draw.z - draw.z_source) + chi.to(draw.z) * difference
