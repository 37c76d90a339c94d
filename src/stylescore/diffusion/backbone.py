"""A denoising network as scores: batches prompt and no prompt into one call, whatever the network's family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from stylescore.diffusion.adapters import PLAIN, Adapters, Route, fake_route
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.diffusion.execution.tiling import blended, windows
from stylescore.diffusion.families.base import Call
from stylescore.diffusion.predictions import Prediction
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import PassCounter
from stylescore.method.types import Latent, Noise, Timesteps


@dataclass(frozen=True)
class Backbone:
    """A denoising network with adapters.

    Attributes:
        network: a diffusers U-Net or transformer, frozen.
        adapters: its switchable branches.
        prediction: how it is asked at (z_t, t), and what its answer means.
        call: how its family is called.
        counter: counts its samples.
        tile: side in cells of the windows that larger latents are predicted in; `None` predicts them whole.
        at_once: how many windows go through the network in one call, at most.
    """

    network: Any
    adapters: Adapters
    prediction: Prediction
    call: Call
    counter: PassCounter = field(default_factory=PassCounter)
    tile: int | None = None
    at_once: int = 1

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that says what t means."""
        return self.prediction.schedule

    def __call__(self, z_t: Latent, t: Timesteps, conditioning: Conditioning, route: Route) -> Noise:
        """Predict the noise in z_t; the network runs in its own precision, the result is float32."""
        height, width = z_t.shape[-2:]

        def predict(parts: Latent) -> Noise:
            count = len(parts) // len(z_t)
            if count == 1:
                return self.predict(parts, t, conditioning, route)
            return self.predict(
                parts, t.repeat_interleave(count), conditioning.repeat_interleave(count), route.repeated(count)
            )

        self.count(len(z_t) * len(windows(height, width, self.tile)))
        return blended(predict, z_t, side=self.tile, at_once=self.at_once)

    def predict(self, z_t: Latent, t: Timesteps, conditioning: Conditioning, route: Route) -> Noise:
        """Ask the network once, without counting."""
        dtype = self.network.dtype
        latents, time = self.prediction.network_inputs(z_t, t)
        with self.adapters.switch.set(route):
            output = self.call(self.network, latents.to(dtype), time, conditioning.to(dtype=dtype))
        answer = output.to(torch.float32, copy=True)  # a compiled network may write its next answer over this one
        return self.prediction.noise(answer, z_t, t)

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
    conditional: Conditioning
    unconditional: Conditioning
    style: bool = False
    fake: bool = False

    def route(self, batch: int, rows: int, device: torch.device) -> Route:
        """Return the branches this score uses, for `rows` rows of `batch` samples."""
        if self.fake:
            return fake_route(batch, rows, device)
        return Route(style=True) if self.style else PLAIN

    def pair(self, z_t: Latent, t: Timesteps) -> tuple[Noise, Noise]:
        """Return (conditional, unconditional) from one call of twice the batch."""
        conditioning = concatenate([self.conditional, self.unconditional])
        route = self.route(len(z_t), 2 * len(z_t), z_t.device)
        both = self.backbone(torch.cat([z_t, z_t]), torch.cat([t, t]), conditioning, route)
        eps_c, eps_u = both.chunk(2)
        return eps_c, eps_u

    def alone(self, z_t: Latent, t: Timesteps) -> Noise:
        """Return the conditional prediction."""
        return self.backbone(z_t, t, self.conditional, self.route(len(z_t), len(z_t), z_t.device))
