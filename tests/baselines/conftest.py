"""Random weights of the classical rivals' networks, and pictures to try them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.baselines.networks import MAKERS, write_weights


def draw(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Return a smooth random picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return files of random weights, by the names of `--weights`."""
    return write_weights(tmp_path_factory.mktemp("weights"), *MAKERS)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two photos and a picture in a style."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, seed in (("photo", 1), ("other", 2), ("style", 3)):
        draw(seed).save(folder / f"{name}.png")
    return folder
