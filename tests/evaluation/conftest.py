"""Folders of small pictures, and random weights in files of the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylescore.metrics.perceptual import PUBLISHED_NAMES, PerceptualDistance
from stylescore.metrics.trunks import VGG16, make_alexnet, make_vgg


def draw(seed: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """Return a smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder with `photos`, two folders of results and one of the style."""
    for name in ("photos", "near", "far", "style"):
        (tmp_path / name).mkdir()
    for n in range(4):
        draw(n).save(tmp_path / "photos" / f"p{n}.jpg", quality=95)
        blend = Image.blend(draw(n), draw(50 + n), 0.1)
        blend.save(tmp_path / "near" / f"p{n}.png")
        draw(90 + n).save(tmp_path / "far" / f"p{n}-watercolor.png")
        draw(90 + n, (64, 70)).save(tmp_path / "style" / f"s{n}.png")
    return tmp_path


@pytest.fixture(scope="session")
def alexnet_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return random weights for LPIPS with AlexNet, as `--weights` takes them."""
    folder = tmp_path_factory.mktemp("alexnet")
    rng = torch.Generator().manual_seed(0)
    trunk = {n: 0.05 * torch.randn(t.shape, generator=rng) for n, t in make_alexnet().state_dict().items()}
    linear = {
        f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1, generator=rng) for n, c in enumerate((64, 192, 384, 256, 256))
    }
    save_file(trunk, folder / "trunk.safetensors")
    torch.save(linear, folder / "linear.pth")
    return {"alexnet": str(folder / "trunk.safetensors"), "lpips-alex": str(folder / "linear.pth")}


@pytest.fixture(scope="session")
def st_lpips_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return random weights of the shift-tolerant LPIPS."""
    rng = torch.Generator().manual_seed(1)
    state = {
        PUBLISHED_NAMES[name]: tensor if "kernel" in name else 0.05 * torch.randn(tensor.shape, generator=rng).abs()
        for name, tensor in PerceptualDistance().state_dict().items()
    }
    path = tmp_path_factory.mktemp("st-lpips") / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


def hed_file(folder: Path, seed: int = 2) -> str:
    """Write random weights of the VGG16 of a HED network, and return their path."""
    rng = torch.Generator().manual_seed(seed)
    state = {n: 0.05 * torch.randn(t.shape, generator=rng) for n, t in make_vgg(VGG16).state_dict().items()}
    path = folder / f"hed-{seed}.safetensors"
    save_file(state, path)
    return str(path)
