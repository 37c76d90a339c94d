"""The one signature every score has, `(z_t, t) -> eps`, and what is built from it.

The score of a distribution at noise level t is -eps / sigma_t; working with eps keeps the paper's signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from stylescore.method.types import Draw, Latent, Noise, Timesteps


class NoisePredictor(Protocol):
    """Predicts the noise in a batch of noised latents."""

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return a noise prediction shaped like z_t."""
        ...


Finish = Callable[[Noise, Noise], Noise]
"""Makes a score of the conditional and the unconditional prediction."""


def guide(eps_c: Noise, eps_u: Noise, s: float) -> Noise:
    """Classifier-free guidance: CFG(s) = eps_u + s (eps_c - eps_u) (Ho and Salimans, 2022, equation 6)."""
    return eps_u + s * (eps_c - eps_u)


def contrast(eps_c: Noise, eps_u: Noise) -> Noise:
    """Return what the prompt adds to a prediction: conditional minus unconditional."""
    return eps_c - eps_u


@dataclass(frozen=True)
class Known:
    """A score that has been asked already at one noised latent.

    Attributes:
        z_t: the latent it was asked at.
        eps: its answer there.
        otherwise: whom to ask at any other latent.
    """

    z_t: Latent
    eps: Noise
    otherwise: NoisePredictor

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return the answer, if the question is the same."""
        return self.eps if z_t is self.z_t else self.otherwise(z_t, t)


ScoreName = Literal["style", "fake", "edit", "source"]


class Together(Protocol):
    """Asks several scores of one draw in as few calls of the network as it can."""

    def __call__(self, draw: Draw, names: Sequence[ScoreName]) -> Mapping[ScoreName, Noise]:
        """Return each score's answer, at z_t for style and fake, at z_source_t for edit and source."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores an objective may ask; one it does not ask costs nothing.

    Attributes:
        style: target distribution, asked at z_t (style model, guided, target prompt).
        fake: current picture's distribution, asked at z_t (base with the trained adapter, guided).
        edit: contrast of the plain base under the edit prompt, asked at z_source_t; makes the relevance map.
        source: plain base under the source caption, guided, asked at z_source_t (DDS, PDS).
        together: asks several at once; `None` where each is asked alone.
    """

    style: NoisePredictor
    fake: NoisePredictor
    edit: NoisePredictor
    source: NoisePredictor
    together: Together | None = None

    def ahead(self, draw: Draw, names: Sequence[ScoreName]) -> Scores:
        """Return scores that know their answers at this draw, as far as asking them together saves a call."""
        unknown = [name for name in names if not isinstance(getattr(self, name), Known)]
        if self.together is None or len(unknown) < 2:
            return self
        found = self.together(draw, unknown)
        known: dict[str, Any] = {n: Known(asked_at(draw, n), eps, getattr(self, n)) for n, eps in found.items()}
        return replace(self, **known)


def asked_at(draw: Draw, name: ScoreName) -> Latent:
    """Return the noised latent that a score is asked at."""
    return draw.z_t if name in ("style", "fake") else draw.z_source_t


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
