"""The autoencoder's architecture and initial weights.

The encoder is not trained by gradient steps at all: its residual branches are silent and its straight path
computes principal components, 2 x 2 by 2 x 2, level by level. What is left to train is the decoder.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

LATENT_CHANNELS = 32
WIDTHS = (16, 32, 64, 128)
KEPT = (12, 32, 32)
"""Components kept after each halving."""
POSTERIOR_LOGVAR = -7.0
"""The posterior's fixed log variance: a sample differs from the mean by 0.03."""
PEDESTAL = 12.0
"""Value of constant channels, which keep the group norm from rescaling its input."""
GROUPS = 4


def new_autoencoder() -> AutoencoderKL:
    """Return a small AutoencoderKL, downscaling by eight into 32 channels."""
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=GROUPS,
        sample_size=256,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    zero_residuals(model.encoder)
    zero_residuals(model.decoder)
    start_decoder_head(model.decoder)
    return model


@torch.no_grad()
def zero_residuals(model: nn.Module) -> None:
    """Zero the last convolution of every residual branch, so that only the shortcuts remain."""
    for block in model.modules():
        if isinstance(block, ResnetBlock2D):
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()


def blocks_of(features: np.ndarray) -> np.ndarray:
    """Gather 2 x 2 neighbours: N H W C becomes N H/2 W/2 4C."""
    count, rows, columns, channels = features.shape
    cut = features.reshape(count, rows // 2, 2, columns // 2, 2, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(count, rows // 2, columns // 2, 4 * channels)


def principal(features: np.ndarray, kept: int) -> np.ndarray:
    """Return the ``kept`` strongest orthonormal components (second moment), kept x C."""
    flat = features.reshape(-1, features.shape[-1])
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    return vectors[:, np.argsort(values)[::-1][:kept]].T


@torch.no_grad()
def fit_encoder(encoder: nn.Module, pictures: np.ndarray) -> None:
    """Write principal components of ``pictures`` (N H W 3, -1..1) into the shortcut path."""
    _clear_straight_path(encoder)
    _identity(encoder.conv_in, 3)
    features = pictures.astype(np.float64)
    for block, kept in zip(encoder.down_blocks, KEPT, strict=False):
        _pass_through(block, features.shape[-1])
        cells = blocks_of(features)
        basis = principal(cells, kept)
        down = block.downsamplers[0].conv
        taps = torch.from_numpy(basis.reshape(kept, 2, 2, -1)).permute(0, 3, 1, 2)
        down.weight[:kept, : taps.shape[1], :2, :2] = taps.float()
        features = cells @ basis.T
    flat = features.reshape(-1, LATENT_CHANNELS)
    _write_head(encoder, flat.mean(0), flat.std(0))


def _clear_straight_path(encoder: nn.Module) -> None:
    layers = [encoder.conv_in, encoder.conv_out]
    layers += [block.downsamplers[0].conv for block in encoder.down_blocks if block.downsamplers]
    residuals = [block for block in encoder.modules() if isinstance(block, ResnetBlock2D)]
    layers += [block.conv_shortcut for block in residuals if block.conv_shortcut is not None]
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


def _identity(layer: nn.Conv2d, channels: int) -> None:
    middle = layer.kernel_size[0] // 2
    for channel in range(channels):
        layer.weight[channel, channel, middle, middle] = 1


def _pass_through(block: nn.Module, channels: int) -> None:
    for residual in block.resnets:
        if residual.conv_shortcut is not None:
            _identity(residual.conv_shortcut, channels)


def _write_head(encoder: nn.Module, mean: np.ndarray, std: np.ndarray) -> None:
    """Represent every component as a pair +x, -x: silu(x) - silu(-x) is x, so the head stays linear."""
    shortcut = encoder.down_blocks[-1].resnets[0].conv_shortcut
    width = shortcut.out_channels // GROUPS
    gain = PEDESTAL / 2**0.5
    encoder.conv_norm_out.weight.fill_(1.0)
    encoder.conv_norm_out.bias.zero_()
    middle = encoder.conv_out.kernel_size[0] // 2
    for group in range(GROUPS):
        pedestal = slice(group * width + width // 2, (group + 1) * width)
        shortcut.bias[pedestal] = PEDESTAL * torch.tensor([1.0, -1.0]).repeat(width // 4)
    for component in range(LATENT_CHANNELS):
        place = (component % GROUPS) * width + 2 * (component // GROUPS)
        amplitude = gain * float(std[component]) ** 0.5
        for sign, channel in ((1, place), (-1, place + 1)):
            shortcut.weight[channel, component] = sign / float(std[component])
            shortcut.bias[channel] = -sign * float(mean[component] / std[component])
            encoder.conv_out.weight[component, channel, middle, middle] = sign * amplitude
    encoder.conv_out.bias[LATENT_CHANNELS:] = POSTERIOR_LOGVAR


@torch.no_grad()
def start_decoder_head(decoder: nn.Module) -> None:
    """Make the end of the decoder linear in the same way: four signals, three of them red, green, blue."""
    shortcut = decoder.up_blocks[-1].resnets[0].conv_shortcut
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    pedestal = 4.0
    for signal in range(4):
        plus, minus, high, low = range(4 * signal, 4 * signal + 4)
        shortcut.weight[minus] = -shortcut.weight[plus]
        shortcut.weight[[high, low]] = 0
        shortcut.bias[[plus, minus]] = 0
        shortcut.bias[high], shortcut.bias[low] = pedestal, -pedestal
        for sign, channel in ((1, plus), (-1, minus)):
            if signal < 3:
                decoder.conv_out.weight[signal, channel, 1, 1] = sign * pedestal / 2**0.5
    decoder.conv_norm_out.weight.fill_(1.0)


def encode_mean(model: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Return the posterior's mean, unscaled."""
    return model.encoder(pictures)[:, :LATENT_CHANNELS]
