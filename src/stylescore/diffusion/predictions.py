"""Converts between the method's (z_t, t) -> eps and the inputs and output that a network was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stylescore.method.schedule import NoiseSchedule
from stylescore.method.types import Latent, Noise, PredictionType, Timesteps


class Prediction(Protocol):
    """The conversion for one kind of network."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that defines what t means."""
        ...

    def network_inputs(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return the latents and the time that the network is called with; time is [batch]."""
        ...

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise in z_t that the network's output implies."""
        ...


@dataclass(frozen=True)
class VariancePreserving:
    """The conversion for a network that was trained on z_t = alpha_t z + sigma_t eps itself.

    Attributes:
        schedule: the one that the network was trained on.
        kind: what the network predicts.
    """

    schedule: NoiseSchedule
    kind: PredictionType = "epsilon"

    def network_inputs(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return z_t and t unchanged."""
        return z_t, t

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise that the predicted noise, velocity or clean latent implies."""
        return self.schedule.to_eps(output, self.kind, z_t, t)


@dataclass(frozen=True)
class RectifiedFlow:
    """The conversion for a network that was trained on x_s = (1 - s) z + s eps to predict the velocity v = eps - z.

    The network is called at the time s whose signal-to-noise ratio is that of t; see `docs/concepts/flow.md`.

    Attributes:
        schedule: defines what t means; the network itself has no schedule.
        time_scale: what the network calls the time of pure noise.
    """

    schedule: NoiseSchedule
    time_scale: float = 1.0

    def network_inputs(self, z_t: Latent, t: Timesteps) -> tuple[Latent, Tensor]:
        """Return x_s and s, in the network's unit."""
        return self.schedule.to_flow(z_t, t), self.time_scale * self.schedule.flow_time(t).flatten()

    def noise(self, output: Latent, z_t: Latent, t: Timesteps) -> Noise:
        """Return the noise that the predicted velocity implies."""
        return self.schedule.velocity_to_eps(output, z_t, t)
