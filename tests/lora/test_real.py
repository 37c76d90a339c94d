"""Published files of other authors, which the project does not ship; each test is skipped where its file is absent."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from stylescore.diffusion.adapters import adaptable
from stylescore.lora import Additive, Change, Product, bind, describe, read_lora
from stylescore.lora.embeddings import FIRST

FOLDER = Path(__file__).parents[3] / "shared" / "loras"
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@cache
def unet() -> dict[str, tuple[int, ...]]:
    """Return the weight shapes of Stable Diffusion 1.5's U-Net; nothing is loaded."""
    with torch.device("meta"):
        return adaptable(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8))


@cache
def text() -> dict[str, tuple[int, ...]]:
    """Return the weight shapes of its text encoder."""
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        return adaptable(CLIPTextModel(CLIPTextConfig(**size)))


def real(name: str) -> Path:
    if not (FOLDER / name).is_file():
        pytest.skip(f"{name} is not here: it is another author's file, which the project does not ship")
    return FOLDER / name


def both(path: Path) -> tuple[dict[str, Change], dict[str, Change]]:
    lora = read_lora(path)
    return bind(lora, unet()), bind(lora, text(), "text_encoder")


FACTS: dict[str, tuple[str, str, tuple[int, ...], tuple[int, int, int], tuple[str, ...]]] = {
    "sd15_pokemon_diffusers_old.safetensors": ("diffusers", "LoRA", (4,), (128, 0, 0), ()),
    "sd15_analog_cloneofsimo_r4.safetensors": ("cloneofsimo", "LoRA", (4,), (144, 0, 48), ()),
    "sd15_disney_cloneofsimo_r1.safetensors": ("cloneofsimo", "LoRA", (1,), (144, 0, 48), ("<s1><s2>",)),
    "sd15_lokr_factor4.safetensors": ("kohya", "LoKr", (4,), (278, 0, 72), ("smf girl",)),
    "sd15_lokr_factor8.safetensors": ("kohya", "LoKr", (8,), (278, 0, 72), ("smf girl",)),
}


@pytest.mark.parametrize("name", FACTS)
def test_real_files_are_recognised_and_fit(name: str) -> None:
    path = real(name)
    form, kind, ranks, counts, words = FACTS[name]
    report = describe(path, unet())
    assert (report.usable, report.reason) == (True, None)
    assert (report.format, report.kind, report.family, report.ranks) == (form, kind, "sd1", ranks)
    assert (report.unet.linear, report.unet.conv, report.text_encoder.total) == counts
    assert report.trigger_words == words
    denoiser, encoder = both(path)
    assert (len(denoiser), len(encoder)) == (counts[0], counts[2])
    assert all(change.shape == unet()[name] for name, change in denoiser.items())
    assert all(change.shape == text()[name] for name, change in encoder.items())


def test_added_tokens_are_reported_and_read() -> None:
    path = real("sd15_disney_cloneofsimo_r1.safetensors")
    assert describe(path).added_tokens == ("<s1>", "<s2>")
    read = {word: tuple(embedding.vectors[FIRST].shape) for word, embedding in read_lora(path).added_tokens.items()}
    assert read == {"<s1>": (1, 768), "<s2>": (1, 768)}


def test_numbers_follow_the_old_order_of_layers() -> None:
    path = real("sd15_analog_cloneofsimo_r4.safetensors")
    tensors, (denoiser, encoder) = load_file(path), both(path)
    block = "transformer_blocks.0"
    expected = {
        "unet:0": (denoiser, Q),
        "unet:4": (denoiser, f"down_blocks.0.attentions.0.{block}.ff.net.0.proj"),
        "unet:6": (denoiser, f"down_blocks.0.attentions.0.{block}.attn2.to_k"),
        "unet:54": (denoiser, f"up_blocks.1.attentions.0.{block}.attn1.to_q"),
        "unet:143": (denoiser, f"mid_block.attentions.0.{block}.attn2.to_out.0"),
        "text_encoder:5": (encoder, next(name for name in text() if name.endswith("layers.1.self_attn.v_proj"))),
    }
    for number, (bound, name) in expected.items():
        change = bound[name]
        assert isinstance(change, Product)
        assert torch.equal(change.up, tensors[f"{number}:up"].float())
        assert torch.equal(change.down, tensors[f"{number}:down"].float())


def test_one_module_of_an_old_diffusers_file() -> None:
    path = real("sd15_pokemon_diffusers_old.safetensors")
    tensors, (denoiser, _) = load_file(path), both(path)
    change = denoiser[Q]
    assert isinstance(change, Product)
    expected = tensors[f"unet.{Q}.lora.up.weight"].double() @ tensors[f"unet.{Q}.lora.down.weight"].double()
    assert torch.allclose(change.dense().double(), expected, atol=1e-7)


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("layer", [Q, "down_blocks.1.resnets.0.conv1"])
def test_modules_of_a_real_lokr(factor: int, layer: str) -> None:
    path = real(f"sd15_lokr_factor{factor}.safetensors")
    tensors, (denoiser, _) = load_file(path), both(path)
    change = denoiser[layer]
    assert isinstance(change, Additive)
    stem = f"lora_unet_{layer.replace('.', '_')}"
    parts = {name.rpartition(".")[2]: t.double().numpy() for name, t in tensors.items() if name.startswith(f"{stem}.")}
    left, right = (parts[f"lokr_w{n}_a"] @ parts[f"lokr_w{n}_b"] for n in (1, 2))
    expected = parts["alpha"] / factor * np.kron(left, right).reshape(unet()[layer])
    assert np.abs(expected).max() > 0
    assert np.allclose(change.dense().double().numpy(), expected, rtol=1e-4, atol=1e-8)


def test_the_names_of_a_real_kohya_file_fit(tmp_path: Path) -> None:
    """All 264 modules are there, with values in place of those that the list of names lacks."""
    listed: dict[str, dict[str, Any]] = json.loads(real("sd15_kohya_r128_keys_only.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {name: torch.zeros(entry["shape"]).half() for name, entry in listed.items()}
    tensors |= {name: torch.tensor(64.0) for name in tensors if name.endswith(".alpha")}
    save_file(tensors, tmp_path / "a.safetensors")
    report = describe(tmp_path / "a.safetensors", unet())
    assert (report.usable, report.format, report.kind, report.family) == (True, "kohya", "LoRA", "sd1")
    assert (report.ranks, report.alphas) == ((128,), (64.0,))
    denoiser, encoder = both(tmp_path / "a.safetensors")
    assert (len(denoiser), len(encoder)) == (192, 72)
    assert len(denoiser) + len(encoder) == len(listed) // 3
