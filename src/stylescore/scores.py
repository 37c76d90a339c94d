"""The one signature every score has, `(z_t, t) -> eps`, and what is built from it.

The score of a distribution at noise level t is -eps / sigma_t; working with eps keeps the paper's signs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from stylescore.types import Latent, Noise, Timesteps


class NoisePredictor(Protocol):
    """Predicts the noise in a batch of noised latents."""

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return a noise prediction shaped like z_t."""
        ...


class PairPredictor(Protocol):
    """Predicts the noise twice, with the prompt and without it, in one batched call."""

    def __call__(self, z_t: Latent, t: Timesteps) -> tuple[Noise, Noise]:
        """Return (conditional, unconditional), each shaped like z_t."""
        ...


def guide(eps_c: Noise, eps_u: Noise, s: float) -> Noise:
    """Classifier-free guidance: CFG(s) = eps_u + s (eps_c - eps_u) (Ho and Salimans, 2022, equation 6)."""
    return eps_u + s * (eps_c - eps_u)


@dataclass(frozen=True)
class Guided:
    """A score under classifier-free guidance with scale s."""

    pair: PairPredictor
    guidance_scale: float

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return CFG(s)."""
        eps_c, eps_u = self.pair(z_t, t)
        return guide(eps_c, eps_u, self.guidance_scale)


@dataclass(frozen=True)
class Contrast:
    """What the prompt adds to a prediction: conditional minus unconditional."""

    pair: PairPredictor

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return eps_c - eps_u."""
        eps_c, eps_u = self.pair(z_t, t)
        return eps_c - eps_u


@dataclass(frozen=True)
class Known:
    """A prediction that has been made already, for the one draw it was made at."""

    eps: Noise

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return it."""
        del z_t, t
        return self.eps


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores an objective may ask; one it does not ask costs nothing.

    Attributes:
        style: target distribution, asked at z_t (style model, guided, target prompt).
        fake: current picture's distribution, asked at z_t (base with the trained adapter, guided).
        edit: contrast of the plain base under the edit prompt, asked at z_source_t; makes the relevance map.
        source: plain base under the source caption, guided, asked at z_source_t (DDS, PDS).
    """

    style: NoisePredictor
    fake: NoisePredictor
    edit: NoisePredictor
    source: NoisePredictor


@dataclass
class PassCounter:
    """Counts how many samples went through the denoising network.

    Attributes:
        forward: samples evaluated without gradient.
        trained: samples evaluated with gradient (each costs a backward pass too).
    """

    forward: int = 0
    trained: int = field(default=0)

    def snapshot(self) -> tuple[int, int]:
        """Return (forward, trained) as they stand."""
        return self.forward, self.trained
