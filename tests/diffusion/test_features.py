"""The perceptual distance in the features of a denoising network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.diffusion.features import FeatureDistance, compared_layers
from stylescore.diffusion.text import CachedTextEncoder


@pytest.fixture
def distance(tiny_models: Callable[..., Any]) -> FeatureDistance:
    networks = tiny_models()
    return FeatureDistance(networks.base, networks.text([""]))


def latents(seed: int, count: int = 3) -> Tensor:
    return torch.randn(count, 4, 8, 12, generator=torch.Generator().manual_seed(seed))


T = torch.tensor([61, 61, 61])


def test_a_latent_is_at_no_distance_from_itself_and_a_closer_one_is_nearer(distance: FeatureDistance) -> None:
    z, eps = latents(0), latents(1)
    assert torch.equal(distance(z, z, eps, T), torch.zeros(3))
    near, far = (distance(z + size * latents(2), z, eps, T) for size in (0.05, 0.5))
    assert bool((near > 0).all())
    assert bool((near < far).all())


def test_a_batch_costs_what_its_latents_cost_one_by_one(distance: FeatureDistance) -> None:
    first, second, eps = latents(0), latents(1), latents(2)
    alone = [distance(first[n : n + 1], second[n : n + 1], eps[n : n + 1], T[:1]) for n in range(3)]
    torch.testing.assert_close(distance(first, second, eps, T), torch.cat(alone))


def test_its_gradient_is_that_of_a_finite_difference(distance: FeatureDistance) -> None:
    first, second, eps = latents(0, 1).requires_grad_(), latents(1, 1), latents(2, 1)
    (gradient,) = torch.autograd.grad(distance(first, second, eps, T[:1]).sum(), first)
    step = 0.01 * gradient / gradient.norm()
    with torch.no_grad():
        rise = distance(first + step, second, eps, T[:1]) - distance(first - step, second, eps, T[:1])
    assert float(rise) == pytest.approx(2 * float((gradient * step).sum()), rel=0.05)


def test_nothing_flows_into_the_network_or_the_second_latent(distance: FeatureDistance) -> None:
    first, second = latents(0).requires_grad_(), latents(1).requires_grad_()
    distance(first, second, latents(2), T).sum().backward()
    assert second.grad is None
    assert first.grad is not None
    assert all(parameter.grad is None for parameter in distance.backbone.network.parameters())


def test_no_hook_stays_and_the_decoder_does_not_run(distance: FeatureDistance) -> None:
    network, ran = distance.backbone.network, []
    handle = network.up_blocks[0].register_forward_hook(lambda *_: ran.append(1))
    distance(latents(0), latents(1), latents(2), T)
    handle.remove()
    assert not ran
    assert not any(module._forward_hooks for module in network.modules())


def test_a_transformer_is_compared_at_some_of_its_first_blocks() -> None:
    blocks = nn.ModuleList(nn.Identity() for _ in range(16))
    chosen = compared_layers(SimpleNamespace(transformer_blocks=blocks))
    assert [list(blocks).index(block) for block in chosen] == [2, 4, 6, 8]


def test_a_cached_prompt_is_encoded_once_and_as_ever(tiny_models: Callable[..., Any]) -> None:
    text = tiny_models().text
    cached, calls = CachedTextEncoder.of(text), []
    handle = text.models[0].model.register_forward_hook(lambda *_: calls.append(1))
    first = cached.encode_groups([["a cat", ""], ["a dog"]])
    again = cached.encode_groups([["a dog", "a cat"]])
    handle.remove()
    assert len(calls) == 1
    expected = text.encode_groups([["a cat", ""], ["a dog"]])
    for ours, theirs in zip(first, expected, strict=True):
        torch.testing.assert_close(ours.tokens, theirs.tokens)
    assert torch.equal(again[0].tokens, torch.cat([first[1].tokens, first[0].tokens[:1]]))
