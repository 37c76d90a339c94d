"""The recorded reference merged this file into this U-Net at strength 0.8."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stylescore.lora import Product, bind, read_lora

PARITY = Path(__file__).parents[1] / "data" / "parity"
STRENGTH = 0.8


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "tiny_base" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def bound(weights: dict[str, torch.Tensor]) -> dict[str, Product]:
    shapes = {name.removesuffix(".weight"): tuple(w.shape) for name, w in weights.items() if w.ndim in (2, 4)}
    return bind(read_lora(PARITY / "style_lora_kohya.safetensors"), shapes)


def test_merged_weights_equal_the_recorded_ones(weights, bound):
    recorded = load_file(PARITY / "golden" / "units.safetensors")
    merged = {name.removeprefix("merged/"): w for name, w in recorded.items() if name.startswith("merged/")}
    assert len(merged) == 5
    for name, expected in merged.items():
        ours = weights[name] + STRENGTH * bound[name.removesuffix(".weight")].dense()
        assert (ours - expected).abs().max() <= 2e-4 * expected.abs().max()


def test_all_delta_norms_equal_the_recorded_ones(weights, bound):
    facts = json.loads((PARITY / "golden" / "units.json").read_text())["style_lora_merged_weights"]
    assert len(facts) == 48
    assert {name.removesuffix(".weight") for name in facts} == set(bound)
    for name, norms in facts.items():
        delta = STRENGTH * bound[name.removesuffix(".weight")].dense()
        assert delta.shape == weights[name].shape
        assert delta.norm().item() == pytest.approx(norms["delta_l2"], rel=2e-4)
        assert (weights[name] + delta).norm().item() == pytest.approx(norms["merged_l2"], rel=2e-4)


def test_format_family_and_ranks_of_the_file():
    lora = read_lora(PARITY / "style_lora_kohya.safetensors")
    assert (lora.format, lora.family, lora.ranks) == ("kohya", "sd1", (4,))
    assert (len(lora.parts["unet"]), len(lora.parts["text_encoder"])) == (48, 12)


def test_text_encoder_names_fit_with_and_without_wrapper():
    lora = read_lora(PARITY / "style_lora_kohya.safetensors")
    file = load_file(PARITY / "tiny_base" / "text_encoder" / "model.safetensors")
    wrapped = {name.removesuffix(".weight"): tuple(w.shape) for name, w in file.items() if w.ndim == 2}
    bare = {name.removeprefix("text_model."): shape for name, shape in wrapped.items()}
    assert len(bind(lora, wrapped, "text_encoder")) == 12
    assert set(bind(lora, bare, "text_encoder")) <= set(bare)
