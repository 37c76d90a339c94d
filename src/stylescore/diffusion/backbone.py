"""A denoising network as a noise predictor, whatever its family: tiles, precision, adapters and counting."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from stylescore.diffusion.adapters import Adapters, Route
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.execution.tiling import blend_tiles, tile_corners
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
        adapters: its adapted layers.
        prediction: how its input is made of (z_t, t), and what its output means.
        call: how its family is called.
        counter: counts its samples.
        tile: side in cells of the tiles that larger latents are predicted in; `None` predicts them whole.
        tiles_per_call: how many tiles go through the network in one call, at most.
    """

    network: Any
    adapters: Adapters
    prediction: Prediction
    call: Call
    counter: PassCounter = field(default_factory=PassCounter)
    tile: int | None = None
    tiles_per_call: int = 1

    @property
    def schedule(self) -> NoiseSchedule:
        """The schedule that says what t means."""
        return self.prediction.schedule

    def __call__(self, z_t: Latent, t: Timesteps, conditioning: Conditioning, route: Route) -> Noise:
        """Predict the noise in z_t; the network runs in its own precision, the result is float32."""
        height, width = z_t.shape[-2:]

        def predict(tiles: Latent) -> Noise:
            count = len(tiles) // len(z_t)
            if count == 1:
                return self.predict_whole(tiles, t, conditioning, route)
            return self.predict_whole(
                tiles, t.repeat_interleave(count), conditioning.repeat_interleave(count), route.repeat_interleave(count)
            )

        self._count(len(z_t) * len(tile_corners(height, width, self.tile)))
        return blend_tiles(predict, z_t, side=self.tile, per_call=self.tiles_per_call)

    def predict_whole(self, z_t: Latent, t: Timesteps, conditioning: Conditioning, route: Route) -> Noise:
        """Call the network once, without tiles and without counting."""
        dtype = self.network.dtype
        latents, time = self.prediction.network_inputs(z_t, t)
        with self.adapters.switch.set(route):
            output = self.call(self.network, latents.to(dtype), time, conditioning.to(dtype=dtype))
        output = output.to(torch.float32, copy=True)  # a compiled network may write its next output over this one
        return self.prediction.noise(output, z_t, t)

    def _count(self, rows: int) -> None:
        """Add to the counter, separately for calls that will be differentiated."""
        if torch.is_grad_enabled():
            self.counter.trained += rows
        else:
            self.counter.forward += rows
