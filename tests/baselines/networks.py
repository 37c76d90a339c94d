"""Random weights of the classical rivals' networks, in files of the published layouts."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from stylescore.baselines.adain import make_decoder, make_encoder
from stylescore.metrics.trunks import VGG16, VGG19, make_vgg

MAKERS = {
    "vgg19": lambda: make_vgg(VGG19),
    "vgg16": lambda: make_vgg(VGG16),
    "adain-encoder": make_encoder,
    "adain-decoder": make_decoder,
}


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Give a network's convolutions random weights that keep the size of what goes through them."""
    rng = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=rng) * (2 / fan) ** 0.5
            layer.bias.data = 0.1 * torch.randn(layer.bias.shape, generator=rng)
    return network


def write_weights(folder: Path, *names: str) -> dict[str, str]:
    """Write random weights of some networks, and return their files by the names of `--weights`."""
    for seed, name in enumerate(names):
        save_file(randomise(MAKERS[name](), seed).state_dict(), folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in names}
