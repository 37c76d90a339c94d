"""How a network is asked about z_t at t, and how its answer becomes the noise in z_t.

A prediction is the border between what objectives speak of, (z_t, t) -> eps, and what a network was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import Latent, Noise, PredictionType, Timesteps


class Prediction(Protocol):
    """The two ways across the border."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that says what t means."""
        ...

    def asked(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return the latents and the time that the network is called with; time is [batch]."""
        ...

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise in z_t that the network's answer implies."""
        ...


@dataclass(frozen=True)
class VariancePreserving:
    """A network that was trained on z_t = alpha_t z + sigma_t eps itself.

    Attributes:
        schedule: the one it was trained on.
        kind: what it predicts.
    """

    schedule: NoiseSchedule
    kind: PredictionType = "epsilon"

    def asked(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return both as they are."""
        return z_t, t

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return `NoiseSchedule.to_eps`."""
        return self.schedule.to_eps(output, self.kind, z_t, t)


@dataclass(frozen=True)
class RectifiedFlow:
    """A network that was trained on x_s = (1 - s) z + s eps to predict the velocity v = eps - z.

    It is asked where its signal-to-noise ratio is that of t; see `docs/concepts/flow.md`.

    Attributes:
        schedule: what t means; the network itself has no schedule.
    """

    schedule: NoiseSchedule

    def asked(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return x_s and s."""
        return self.schedule.to_flow(z_t, t), self.schedule.flow_time(t).flatten()

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise that the velocity implies."""
        return self.schedule.velocity_to_eps(output, z_t, t)
