"""A generator that is a LoRA, on networks that are loaded for something else."""

from __future__ import annotations

import numpy as np
import torch

from stylescore import Stylizer
from stylescore.assembly.one_step import place_one_step
from stylescore.catalog.registry import known_generators


def test_the_autoencoder_of_a_generator_computes_in_float32_on_networks_in_half_precision() -> None:
    photo = np.random.default_rng(0).random((1, 3, 64, 48), dtype=np.float32)
    noise = np.random.default_rng(1).standard_normal((1, 32, 8, 6), dtype=np.float32)
    made = {}
    for dtype in ("float32", "bfloat16"):
        stylizer = Stylizer.load("oil-painting", device="cpu", dtype=dtype)
        network = place_one_step(known_generators()["van-gogh"], stylizer)
        made[dtype] = network(photo, noise)
        assert network.step.codec.vae.dtype == torch.float32
        assert stylizer.networks.codec.vae.dtype == getattr(torch, dtype)
    assert made["float32"].shape == photo.shape
    np.testing.assert_allclose(made["bfloat16"], made["float32"], atol=0.05)
    assert np.abs(made["float32"] - photo).mean() > 0.01
