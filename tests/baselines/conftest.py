"""Random weights of the classical rivals' networks, in files of the published layouts, and pictures to try them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from stylescore.baselines.adain import make_decoder, make_encoder
from stylescore.metrics.trunks import VGG16, VGG19, make_vgg


def draw(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Return a smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Give a network's convolutions random weights that keep the size of what goes through them."""
    rng = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=rng) * (2 / fan) ** 0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=rng)
    return network


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return files of random weights, by the names of `--weights`."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "vgg19": make_vgg(VGG19),
        "vgg16": make_vgg(VGG16),
        "adain-encoder": make_encoder(),
        "adain-decoder": make_decoder(),
    }
    for seed, (name, network) in enumerate(networks.items()):
        save_file(randomise(network, seed).state_dict(), folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in networks}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two photos and a picture in a style."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, seed in (("photo", 1), ("other", 2), ("style", 3)):
        draw(seed).save(folder / f"{name}.png")
    return folder
