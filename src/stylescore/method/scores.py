"""The one signature every score has, `(z_t, t) -> eps`, and how several are evaluated at one draw.

The score of a distribution at noise level t is -eps / sigma_t; working with eps keeps the paper's signs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from stylescore.method.types import Draw, Latent, Noise, Timesteps


class NoisePredictor(Protocol):
    """Predicts the noise in a batch of noised latents."""

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return a noise prediction shaped like z_t."""
        ...


Combine = Callable[[Noise, Noise], Noise]
"""Makes a score of the conditional and the unconditional prediction."""


def guide(eps_c: Noise, eps_u: Noise, s: float) -> Noise:
    """Classifier-free guidance: CFG(s) = eps_u + s (eps_c - eps_u) (Ho and Salimans, 2022, equation 6)."""
    return eps_u + s * (eps_c - eps_u)


def contrast(eps_c: Noise, eps_u: Noise) -> Noise:
    """Return what the prompt adds to a prediction: conditional minus unconditional."""
    return eps_c - eps_u


ScoreName = Literal["style", "fake", "edit", "source"]
"""The scores a method may need.

style: target distribution, at z_t (style model, guided, target prompt).
fake: the current picture's distribution, at z_t (base with the trained adapter, guided).
edit: contrast of the plain base under the edit prompt, at z_source_t; makes the relevance map.
source: plain base under the source caption, guided, at z_source_t (DDS, PDS).
"""
Predictions = Mapping[ScoreName, Noise]
"""Noise predictions at one draw, each at its score's own latent."""


def score_latent(draw: Draw, name: ScoreName) -> Latent:
    """Return the noised latent that a score is evaluated at."""
    return draw.z_t if name in ("style", "fake") else draw.z_source_t


class Scores(Protocol):
    """The scores of a run. One that no part of the objective needs is never evaluated."""

    def __getitem__(self, name: ScoreName) -> NoisePredictor:
        """Return one score."""
        ...

    def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
        """Evaluate scores at a draw, in as few forward passes as the implementation can."""
        ...


@dataclass(frozen=True)
class SeparateScores:
    """Scores that have no network in common: each takes a call of its own.

    Attributes:
        predictors: by name.
    """

    predictors: Mapping[ScoreName, NoisePredictor]

    def __getitem__(self, name: ScoreName) -> NoisePredictor:
        """Return one score."""
        return self.predictors[name]

    def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
        """Evaluate each score at its own latent."""
        return {name: self.predictors[name](score_latent(draw, name), draw.t) for name in names}


@dataclass
class PassCounter:
    """Counts how many samples went through the denoising network.

    Attributes:
        forward: samples evaluated without gradient.
        trained: samples evaluated with gradient (each costs a backward pass too).
    """

    forward: int = 0
    trained: int = 0

    def snapshot(self) -> tuple[int, int]:
        """Return (forward, trained) as they stand."""
        return self.forward, self.trained
