"""Windows: that they cover a canvas, leave no seam, and give what the whole gives where it must be so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylescore.diffusion.adapters import Adapters
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.batching import BatchedScores, PromptedScore
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.execution.tiling import OVERLAP, blend_tiles, tile_groups, tile_starts
from stylescore.diffusion.families import sd
from stylescore.diffusion.predictions import VariancePreserving
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import ScoreName, contrast

Rngs = Callable[..., list[torch.Generator]]


@given(st.integers(1, 300), st.integers(4, 64))
def test_tiles_cover_an_axis_and_overlap(length: int, side: int) -> None:
    found = tile_starts(length, side)
    assert found[0] == 0
    assert found[-1] == max(0, length - side)
    for first, second in pairwise(found):
        assert 0 < second - first <= side - int(OVERLAP * side)


@given(st.integers(1, 60), st.integers(1, 9))
def test_groups_hold_every_tile_once_and_are_of_about_one_size(count: int, size: int) -> None:
    corners = [(n, n) for n in range(count)]
    found = list(tile_groups(corners, size))
    assert [corner for group in found for corner in group] == corners
    sizes = {len(group) for group in found}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(3, 40), st.integers(3, 40), st.integers(4, 16), st.integers(1, 5), st.booleans())
def test_what_a_tile_does_alone_is_seamless(height: int, width: int, side: int, count: int, gradient: bool) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(gradient):
        found = blend_tiles(lambda part: 2 * part + 1, x, side=side, per_call=count)
    assert torch.allclose(found, 2 * x + 1, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(24, 40), (8, 25), (7, 7)])
def test_pixels_of_cells_are_put_where_they_belong(height: int, width: int) -> None:
    x = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(1))
    larger = F.interpolate(x, scale_factor=4, mode="nearest")
    up = blend_tiles(lambda part: F.interpolate(part, scale_factor=4, mode="nearest"), x, side=8, cell_out=4)
    down = blend_tiles(lambda part: F.avg_pool2d(part, 4), larger, side=8, cell_in=4)
    assert torch.allclose(up, larger, atol=1e-5)
    assert torch.allclose(down, x, atol=1e-5)


def test_a_seam_between_tiles_that_disagree_is_a_slope() -> None:
    """Each tile answers with a number of its own; no step along the canvas is as large as their difference."""
    answers = iter(range(100))
    found = blend_tiles(lambda part: torch.full_like(part, float(next(answers))), torch.zeros(1, 1, 16, 28), side=16)
    steps = found.diff(dim=-1).abs()
    assert found.min() == 0
    assert found.max() == 1
    assert steps.max() < 0.5


@pytest.fixture
def backbone(tiny_unet: Callable[[], Any], schedule: NoiseSchedule) -> Backbone:
    unet = tiny_unet()
    return Backbone(unet, Adapters.of(unet), VariancePreserving(schedule), sd.call)


def words(units: dict[str, Tensor]) -> tuple[Conditioning, Conditioning]:
    return Conditioning(units["unet/text"]), Conditioning(0 * units["unet/text"])


def latents(side: int) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, side, 2 * side, generator=torch.Generator().manual_seed(3)), torch.tensor([101, 399])


def test_a_tile_sees_what_the_network_sees_there(backbone: Backbone, units: dict[str, Tensor]) -> None:
    """Outside the overlap the prediction is that of the tile alone."""
    z_t, t = latents(8)
    with torch.no_grad():
        tiled = PromptedScore(replace(backbone, tile=8), *words(units))(z_t, t)
        first = PromptedScore(backbone, *words(units))(z_t[..., :8], t)
    assert tiled.shape == z_t.shape
    assert torch.allclose(tiled[..., :4], first[..., :4], atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_tiles_together_are_tiles_alone(
    backbone: Backbone, tiny_style: Any, units: dict[str, Tensor], rngs: Rngs, count: int
) -> None:
    """Every row keeps its timestep, words and branches, in calls for one score and in those for all of them."""
    backbone.adapters.add_style(tiny_style(backbone.network), 0.8)
    fake = backbone.adapters.new_fake(("to_q", "conv1"), 2, 4.0, rngs(1, 2))
    for parameter in fake.parameters:
        parameter.data.add_(0.1)
    z_t, t = latents(8)
    draw = backbone.schedule.draw(z_t, z_t.flip(0), t=t, eps=z_t.flip(-1))
    found: list[list[Tensor]] = []
    for per_call in (1, count):
        tiled = replace(backbone, tile=6, tiles_per_call=per_call)
        text = words(units)
        flipped = Conditioning(text[0].tokens.flip(0))
        scores: dict[ScoreName, PromptedScore] = {
            "style": PromptedScore(tiled, *text, style=True),
            "fake": PromptedScore(tiled, flipped, text[1], contrast, fake=fake),
            "edit": PromptedScore(tiled, *text, contrast),
        }
        with torch.no_grad():
            eps = BatchedScores(scores).predict(draw, ["edit", "fake", "style"])
        trained = PromptedScore(tiled, flipped, text[1], fake=fake)(z_t, t)
        found.append([eps["style"], eps["fake"], eps["edit"], trained])
    assert not torch.allclose(found[0][0][0], found[0][0][1], atol=1e-2)
    for alone, joint in zip(*found, strict=True):
        assert torch.allclose(alone, joint, atol=1e-5)


def test_a_small_latent_is_predicted_whole(backbone: Backbone, units: dict[str, Tensor]) -> None:
    z_t, t = latents(8)
    with torch.no_grad():
        whole = PromptedScore(backbone, *words(units))(z_t, t)
        tiled = PromptedScore(replace(backbone, tile=16), *words(units))(z_t, t)
    assert torch.equal(tiled, whole)


def test_tiles_are_counted(backbone: Backbone, units: dict[str, Tensor]) -> None:
    z_t, t = latents(8)
    tiled = PromptedScore(replace(backbone, tile=8), *words(units))
    with torch.no_grad():
        tiled(z_t, t)
    tiled(z_t, t).sum()
    assert backbone.counter.snapshot() == (3 * 2, 3 * 2)


def test_the_fake_score_learns_through_tiles(backbone: Backbone, units: dict[str, Tensor], rngs: Rngs) -> None:
    """Recomputing a tile's activations changes no gradient, though the route is another in the backward pass."""
    fake = backbone.adapters.new_fake(("to_q", "conv1"), 2, 4.0, rngs(1, 2))
    parameters = fake.parameters
    for parameter in parameters:
        parameter.data.add_(0.1)
    z_t, t = latents(8)
    prompted = PromptedScore(replace(backbone, tile=8), *words(units), fake=fake)
    recomputed = torch.autograd.grad(prompted(z_t, t).square().sum(), parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stylescore.diffusion.execution.tiling.checkpoint", lambda work, part, use_reentrant: work(part))
        kept = torch.autograd.grad(prompted(z_t, t).square().sum(), parameters)
    for one, other in zip(recomputed, kept, strict=True):
        assert one.abs().max() > 0
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_picture_passes_the_autoencoder_in_tiles(tiny_models: Callable[..., Any], rngs: Rngs) -> None:
    codec: Codec = tiny_models().codec
    tile = 8
    side = tile * codec.factor
    pictures = torch.rand(1, 3, side, 3 * side, generator=torch.Generator().manual_seed(5)) * 2 - 1
    tiled = replace(codec, tile=tile)
    z = tiled.encode(pictures, None)
    assert z.shape == codec.encode(pictures, None).shape
    first = codec.encode(pictures[..., :side], None)
    assert torch.allclose(z[..., : tile // 2], first[..., : tile // 2], atol=1e-5)
    assert tiled.decode(z).shape == pictures.shape
    assert torch.allclose(tiled.decode(z)[..., : side // 2], codec.decode(z[..., :tile])[..., : side // 2], atol=1e-4)
