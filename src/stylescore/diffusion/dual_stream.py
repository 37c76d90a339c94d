"""Two passes through a U-Net that share skip connections: one of the noised picture, one of the photo without noise.

The photo's pass gets the skip features of the noised one, so that content comes through the backbone and texture
through the skips; the decoder strengthens the first and damps the lowest frequencies of the second. Both are rows of
one call.

Source: "FreeStyle: Free Lunch for Text-guided Style Transfer using Diffusion Models", arXiv 2401.15636, section 3; the
modulation follows "FreeU: Free Lunch in Diffusion U-Net", CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils.torch_utils import fourier_filter
from torch import Tensor

from stylescore.diffusion.adapters import Route
from stylescore.diffusion.batching import PromptedScore
from stylescore.diffusion.conditioning import concatenate
from stylescore.errors import ConfigError
from stylescore.method.scores import NoisePredictor, Predictions, ScoreName
from stylescore.method.types import Draw, Latent, Noise, Timesteps

STREAMS = 2
"""The noised picture and the photo: the parts of a call's rows, in this order."""
WIDEST_PART = 8
"""Of the widest backbone features, the first channels divided by this are strengthened: 160 of 1280."""
SECOND_PART, SECOND_BACKBONE, SECOND_SKIP = 2, 1.4, 0.2
"""The same for the next width: half of its channels, at most by this factor; and the factor of its skips."""


@dataclass(frozen=True)
class Modulation:
    """What the decoder does to its features.

    Attributes:
        backbone: b, the largest factor of the widest backbone features.
        skip: s, the factor of the lowest frequencies of the skips beside them.
    """

    backbone: float = 2.5
    skip: float = 1.0


def strengthen(features: Tensor, part: int, factor: float) -> Tensor:
    """Return backbone features [rows, c, h, w] whose first c / part channels are multiplied by 1 + (factor - 1) m.

    m in [0, 1] is their mean over the channels, min-max normalised for each row.
    """
    count = features.shape[1] // part
    mean = features.float().mean(dim=1, keepdim=True)
    low, high = (getattr(mean, name)(dim=(1, 2, 3), keepdim=True) for name in ("amin", "amax"))
    weight = 1 + (factor - 1) * (mean - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.cat([features[:, :count] * weight.to(features.dtype), features[:, count:]], dim=1)


def share_and_modulate(joined: Tensor, width: int, widths: list[int], modulation: Modulation) -> Tensor:
    """Return the input of a decoder's block, backbone and skip features side by side, as FreeStyle changes it.

    Args:
        joined: [rows, c, h, w], of both streams.
        width: channels of the backbone features; the others are the skip's.
        widths: of the network's levels, the widest first.
        modulation: factors.
    """
    backbone, skip = joined[:, :width], joined[:, width:]
    skip = skip.chunk(STREAMS)[0].repeat(STREAMS, 1, 1, 1)
    if width == widths[0]:
        backbone = strengthen(backbone, WIDEST_PART, modulation.backbone)
        skip = fourier_filter(skip, threshold=1, scale=modulation.skip)
    elif width in widths[1:2]:
        backbone = strengthen(backbone, SECOND_PART, SECOND_BACKBONE)
        skip = fourier_filter(skip, threshold=1, scale=SECOND_SKIP)
    return torch.cat([backbone, skip], dim=1)


def decoder_blocks(network: Any) -> list[tuple[Any, int]]:
    """Return the residual blocks of a U-Net's decoder with the widths of the backbone features they get.

    Raises:
        ConfigError: the network is no U-Net.
    """
    found: list[tuple[Any, int]] = []
    for block in getattr(network, "up_blocks", ()):
        for index, layer in enumerate(block.resnets):
            before = found[-1][0].out_channels if found else network.config.block_out_channels[-1]
            found.append((layer, before if index == 0 else layer.out_channels))
    if not found:
        raise ConfigError(
            "freestyle needs a U-Net, as Stable Diffusion 1.x, 2.x and SDXL have",
            hint="use another --model, or another --method",
        )
    return found


@contextmanager
def shared_skips(network: Any, modulation: Modulation) -> Iterator[None]:
    """Let the decoder share skips and modulate features inside the block; the network is left as it was."""
    widths = sorted(set(network.config.block_out_channels), reverse=True)

    def change(width: int, _: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (share_and_modulate(inputs[0], width, widths, modulation), *inputs[1:])

    with ExitStack() as stack:
        for layer, width in decoder_blocks(network):
            stack.callback(layer.register_forward_pre_hook(partial(change, width)).remove)
        yield


@dataclass(frozen=True)
class DualStreamScore:
    """The prediction of the photo's pass, under the style score's prompts, guidance and adapters.

    Attributes:
        score: the style score.
        content: latents of the photos, without noise.
        modulation: factors.
    """

    score: PromptedScore
    content: Latent
    modulation: Modulation

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Predict the noise in z_t.

        A network that predicts the clean latent or a velocity says with it what noise is in its own input. What the
        photo's pass predicts is read as said of z_t, in which there is noise.
        """
        prompts = self.score.conditionings
        rows = torch.cat([latents for latents in (z_t, self.content) for _ in prompts])
        conditioning = concatenate(prompts * STREAMS)
        with shared_skips(self.score.backbone.network, self.modulation):
            eps = self.score.backbone(rows, t.repeat(STREAMS * len(prompts)), conditioning, Route(style=True))
        # The conversion is linear in output and input, so another input adds what it gives without an output.
        moved = self.score.backbone.prediction.noise(torch.zeros_like(z_t), z_t - self.content, t)
        return self.score.finish(eps.chunk(STREAMS)[1] + moved.repeat(len(prompts), 1, 1, 1))


@dataclass(frozen=True)
class DualStreamScores:
    """The scores of a run of FreeStyle: there is one.

    Attributes:
        score: the prediction of the photo's pass.
    """

    score: DualStreamScore

    def __getitem__(self, name: ScoreName) -> NoisePredictor:
        """Return the score."""
        return self.score

    def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
        """Evaluate the score at the draw's noised latent."""
        return {name: self.score(draw.z_t, draw.t) for name in names}
