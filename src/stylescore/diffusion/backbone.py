"""The U-Net as scores: batches prompt and no prompt into one call, and turns any prediction into noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from stylescore.config import PredictionType
from stylescore.diffusion.adapters import PLAIN, Adapters, Route, fake_route
from stylescore.schedule import NoiseSchedule
from stylescore.scores import PassCounter
from stylescore.types import Latent, Noise, Timesteps

Context = Float[Tensor, "batch tokens features"]


@dataclass(frozen=True)
class Backbone:
    """A denoising U-Net with adapters.

    Attributes:
        unet: a diffusers `UNet2DConditionModel`, frozen.
        adapters: its switchable branches.
        schedule: the noise schedule it was trained on.
        prediction_type: what it predicts.
        counter: counts its samples.
    """

    unet: Any
    adapters: Adapters
    schedule: NoiseSchedule
    prediction_type: PredictionType
    counter: PassCounter = field(default_factory=PassCounter)

    def __call__(self, z_t: Latent, t: Timesteps, context: Context, route: Route) -> Noise:
        """Predict the noise in z_t; the network runs in its own precision, the result is float32."""
        dtype = self.unet.dtype
        with self.adapters.switch.set(route):
            output = self.unet(z_t.to(dtype), t, encoder_hidden_states=context.to(dtype)).sample
        self.count(len(z_t))
        return self.schedule.to_eps(output.float(), self.prediction_type, z_t, t)

    def count(self, rows: int) -> None:
        """Add to the counter, apart for calls that will be differentiated."""
        if torch.is_grad_enabled():
            self.counter.trained += rows
        else:
            self.counter.forward += rows


@dataclass(frozen=True)
class Prompted:
    """A backbone under a prompt: the conditional and the unconditional prediction.

    Attributes:
        backbone: whom to ask.
        conditional: encoded prompts, one per sample.
        unconditional: the encoded empty prompt, one per sample.
        style: whether the style branch acts.
        fake: whether each sample's fake branch acts.
    """

    backbone: Backbone
    conditional: Context
    unconditional: Context
    style: bool = False
    fake: bool = False

    def route(self, batch: int, rows: int, device: torch.device) -> Route:
        """Return the branches this score uses, for `rows` rows of `batch` samples."""
        if self.fake:
            return fake_route(batch, rows, device)
        return Route(style=True) if self.style else PLAIN

    def pair(self, z_t: Latent, t: Timesteps) -> tuple[Noise, Noise]:
        """Return (conditional, unconditional) from one call of twice the batch."""
        context = torch.cat([self.conditional, self.unconditional])
        route = self.route(len(z_t), 2 * len(z_t), z_t.device)
        both = self.backbone(torch.cat([z_t, z_t]), torch.cat([t, t]), context, route)
        eps_c, eps_u = both.chunk(2)
        return eps_c, eps_u

    def alone(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return the conditional prediction."""
        return self.backbone(z_t, t, self.conditional, self.route(len(z_t), len(z_t), z_t.device))
