"""Attention that reads a style picture: equal to the sums written out, and nothing is left in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from stylescore.diffusion.injection import InjectedProcessor, injected_attention, injected_layers, processors
from stylescore.errors import ConfigError

PARITY = Path(__file__).parent.parent / "data" / "parity"


@pytest.fixture(scope="module")
def unet() -> Any:
    return UNet2DConditionModel.from_pretrained(PARITY / "tiny_base" / "unet").eval().requires_grad_(False)


def heads(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(6, 2, 5, 4, generator=rng) for _ in range(3))
    return q, k, v


def dense(q: Tensor, k: Tensor, v: Tensor, factor: float) -> Tensor:
    logits = factor * torch.einsum("rhid,rhjd->rhij", q, k)
    weights = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    return torch.einsum("rhij,rhjd->rhid", weights, v)


@pytest.mark.parametrize(("gamma", "temperature"), [(0.75, 1.5), (0.0, 1.0), (1.0, 2.0)])
def test_it_is_the_formula_written_out(gamma: float, temperature: float) -> None:
    q, k, v = heads(1)
    found = injected_attention(q, k, v, scale=0.5, gamma=gamma, temperature=temperature)
    assert torch.allclose(found[:4], dense(q[:4], k[:4], v[:4], 0.5), atol=1e-5)
    mixed = gamma * q[:2] + (1 - gamma) * q[4:]
    assert torch.allclose(found[4:], dense(mixed, k[2:4], v[2:4], 0.5 * temperature), atol=1e-5)


def inputs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    return torch.randn(rows, 4, 8, 8, generator=rng), torch.full((rows,), 300), torch.randn(rows, 5, 32, generator=rng)


def run(unet: Any, latents: Tensor, time: Tensor, tokens: Tensor) -> Tensor:
    width = unet.config.cross_attention_dim
    output: Tensor = unet(latents, time, encoder_hidden_states=tokens[..., :1].expand(*tokens.shape[:2], width)).sample
    return output


def test_three_equal_streams_are_the_plain_network(unet: Any) -> None:
    latents, time, tokens = (part.repeat(3, *[1] * (part.ndim - 1)) for part in inputs(2))
    plain = run(unet, latents, time, tokens)
    with processors(injected_layers(unet), InjectedProcessor(0.3, 1.0)):
        assert torch.allclose(run(unet, latents, time, tokens), plain, atol=1e-5)
    with processors(injected_layers(unet), InjectedProcessor(0.3, 3.0)):
        sharper = run(unet, latents, time, tokens)
    assert torch.allclose(sharper[:4], plain[:4], atol=1e-5)
    assert not torch.allclose(sharper[4:], plain[4:], atol=1e-5)


def test_content_and_style_know_nothing_of_the_picture(unet: Any) -> None:
    latents, time, tokens = inputs(3)
    plain = run(unet, latents, time, tokens)
    with processors(injected_layers(unet), InjectedProcessor(0.75, 1.5)):
        found = run(unet, latents, time, tokens)
    assert torch.allclose(found[:2], plain[:2], atol=1e-5)
    assert not torch.allclose(found[2], plain[2], atol=1e-4)


def test_the_network_is_left_as_it_was(unet: Any) -> None:
    before = dict(unet.attn_processors)
    with pytest.raises(ZeroDivisionError), processors(injected_layers(unet), InjectedProcessor(0.5, 1.0)):
        raise ZeroDivisionError
    assert unet.attn_processors == before


def test_the_last_levels_of_the_decoder_are_changed(unet: Any) -> None:
    changed = {id(layer) for layer in injected_layers(unet)}
    names = [name for name, layer in unet.named_modules() if id(layer) in changed]
    assert names
    assert all(name.startswith("up_blocks.") and name.endswith(".attn1") for name in names)
    with pytest.raises(ConfigError, match="styleid needs a U-Net"):
        injected_layers(torch.nn.Linear(2, 2))
