"""The denoising network as a one-step generator: a photo is noised, and one pass predicts what it shows.

The one-step generators of "Improved Distribution Matching Distillation for Fast Image Synthesis", NeurIPS 2024, also
evaluate a U-Net at one timestep, on pure noise; here it is a noised photo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylescore.diffusion.adapters import PLAIN, Route, TrainedAdapter, trained_route
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import Conditioning
from stylescore.generators.layers import NoiseField, Photos, check_inputs, pad_to_cells
from stylescore.method.schedule import OnePoint
from stylescore.method.types import Latent, Noise, Timesteps

CellLatent = Float[Tensor, "batch noise_channels rows columns"]
"""A latent whose cells are those of a generator's noise."""


PredictNoise = Callable[[Latent, Timesteps, Conditioning, Route], Noise]


@dataclass(frozen=True)
class OneStep:
    """One pass of a frozen denoising network, under one prompt and at one timestep.

    Attributes:
        backbone: the network.
        codec: between pictures and latents, whose cells are those of a generator's noise.
        prompt: the encoded prompt, one row.
        timestep: where the network is evaluated.
    """

    backbone: Backbone
    codec: Codec
    prompt: Conditioning
    timestep: int

    @property
    def channels(self) -> int:
        """Channels of the latent, which are those of the noise."""
        return int(self.codec.vae.config.latent_channels)

    def latent(self, photo: Photos, noise: NoiseField | None, route: Route) -> CellLatent:
        """Return z0_hat = (z_t - sigma_t eps_hat(z_t, t)) / alpha_t at z_t = alpha_t E(photo) + sigma_t noise.

        Nothing flows back into the photo.

        Args:
            photo: in [0, 1], any size.
            noise: standard normal, one cell for each of the latent.
            route: the adapters that act.

        Raises:
            PictureError: the shapes do not fit.
        """
        check_inputs(photo, noise, self.channels)
        assert noise is not None
        with torch.no_grad(), torch.autocast(photo.device.type, enabled=False):  # in float32, as where it is applied
            z = self.encode(photo)
        return self.predict(z, noise, self.backbone, route)

    def encode(self, photo: Photos) -> CellLatent:
        """Return E(photo), whose sides are padded to whole cells."""
        return self.codec.encode_differentiably(pad_to_cells(photo) * 2 - 1)

    def predict(self, z: CellLatent, noise: NoiseField, predict_noise: PredictNoise, route: Route) -> CellLatent:
        """Return z0_hat of a photo's latent, see `latent`."""
        count = z.shape[0]  # len(z) would be a constant in an exported network
        t = torch.full((count,), self.timestep, device=z.device)
        schedule = self.backbone.schedule
        z_t = schedule.add_noise(z, noise, t)
        return schedule.to_clean(predict_noise(z_t, t, self.prompt.expand(count), route), z_t, t)

    def picture(self, latent: CellLatent, size: tuple[int, int]) -> Photos:
        """Return the pictures of latents, in [0, 1] but for a little, differentiable in them.

        Args:
            latent: as `latent` returns it.
            size: height and width of the photos.
        """
        return ((self.codec.decode_differentiably(latent) + 1) / 2)[..., : size[0], : size[1]]

    def in_tiles(self, cells: int | None, codec: int | None) -> OneStep:
        """Return the same with tiles of so many latent cells, those of the autoencoder apart; `None` for the whole."""
        return replace(self, backbone=replace(self.backbone, tile=cells), codec=replace(self.codec, tile=codec))


class LoraGenerator(nn.Module):
    """A generator whose only weights are an adapter of a frozen denoising network.

    The adapter acts in this module's own pass of the network and in no other, and changes nothing at first: then the
    picture is the plain network's own prediction. A copy shares the frozen networks.

    Attributes:
        step: the pass of the network.
        adapter: the weights, in float32.
    """

    def __init__(self, step: OneStep, adapter: TrainedAdapter) -> None:
        super().__init__()
        self.step, self.adapter = step, adapter
        self.layers = nn.ModuleList(adapter.layers.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> LoraGenerator:
        """Return a generator with weights of its own on the same frozen networks."""
        layers = {name: copy.deepcopy(layer, memo) for name, layer in self.adapter.layers.items()}
        return LoraGenerator(self.step, TrainedAdapter(layers)).train(self.training)

    def latent(self, photo: Photos, noise: NoiseField | None) -> CellLatent:
        """Return the pictures' latents, see `OneStep.latent`."""
        return self.step.latent(photo, noise, trained_route(self.adapter, 1, len(photo), photo.device))

    def picture(self, latent: CellLatent, size: tuple[int, int]) -> Photos:
        """Return the pictures of latents, see `OneStep.picture`; limited to [0, 1] but in training mode."""
        picture = self.step.picture(latent, size)
        return picture if self.training else picture.clamp(0, 1)

    def forward(self, photo: Photos, noise: NoiseField | None = None) -> Photos:
        """Return pictures of the photos' size, in [0, 1]; in training mode they may leave it a little.

        Raises:
            PictureError: the shapes do not fit.
        """
        height, width = photo.shape[-2:]
        return self.picture(self.latent(photo, noise), (height, width))


class MergedGenerator(nn.Module):
    """A one-step generator as one network of the photo and the noise, for export.

    Attributes:
        network: the denoising network, into which the adapter is merged.
        vae: the autoencoder.
        tokens: features of the prompt.
    """

    context = None
    tokens: Tensor

    def __init__(self, step: OneStep) -> None:
        """Combine the networks of a pass with its prompt and timestep as constants.

        Args:
            step: the pass, on a network without adapters, and a prompt without a pooled vector.
        """
        super().__init__()
        self.network, self.vae = step.backbone.network, step.codec.vae
        self.register_buffer("tokens", step.prompt.tokens.clone())
        prediction: Any = step.backbone.prediction
        at_timestep = replace(prediction, schedule=OnePoint.of(step.backbone.schedule, step.timestep))
        self._step = replace(step, backbone=replace(step.backbone, prediction=at_timestep))

    def forward(self, photo: Photos, noise: NoiseField) -> Photos:
        """Return pictures of the photos' size, in [0, 1], computed as a whole."""
        height, width = photo.shape[-2:]
        step = replace(self._step, prompt=Conditioning(self.tokens))
        latent = step.predict(step.encode(photo), noise, step.backbone.predict_whole, PLAIN)
        return step.picture(latent, (height, width)).clamp(0, 1)
