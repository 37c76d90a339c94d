import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylescore.method.relevance import (
    MaskedRelevance,
    PrecomputedRelevance,
    SemanticRelevance,
    UniformRelevance,
    absolute_then_mean,
    evenly_spaced,
    mean_then_absolute,
    normalise,
    precompute,
    resize_maps,
)
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import SeparateScores, contrast
from stylescore.method.types import Draw

seeds = st.integers(0, 2**31)


def random_map(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).abs()


@pytest.fixture
def draw(schedule: NoiseSchedule) -> Draw:
    z = torch.zeros(2, 4, 3, 3)
    return schedule.draw(z, z + 1, t=torch.tensor([21, 499]), eps=torch.zeros_like(z))


def test_the_two_orders_of_mean_and_absolute_by_hand() -> None:
    contrast = torch.tensor([3.0, -1.0, 0.0, -6.0]).view(1, 4, 1, 1)
    assert mean_then_absolute(contrast).item() == 1.0
    assert absolute_then_mean(contrast).item() == 2.5


@given(seeds, st.floats(0.05, 1.0))
def test_a_map_lies_between_zero_and_one(seed: int, upper: float) -> None:
    found = normalise(random_map(seed, 3, 1, 4, 5), upper)
    assert found.min() >= 0
    assert found.max() <= 1


@given(seeds)
def test_min_max_reaches_both_ends_in_every_sample(seed: int) -> None:
    flat = normalise(random_map(seed, 3, 1, 4, 5)).flatten(1)
    assert flat.min(dim=1).values.tolist() == [0, 0, 0]
    assert flat.max(dim=1).values.tolist() == [1, 1, 1]


def test_normalise_by_hand() -> None:
    raw = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).view(1, 1, 2, 2)
    assert normalise(raw).flatten().tolist() == [0.0, 0.25, 0.5, 1.0]


def test_samples_are_normalised_apart() -> None:
    raw = torch.cat([random_map(1, 1, 1, 3, 3), 100 * random_map(2, 1, 1, 3, 3) + 7])
    alone = torch.cat([normalise(raw[:1]), normalise(raw[1:])])
    assert torch.equal(normalise(raw), alone)


def test_a_flat_map_becomes_ones_and_leaves_the_others_alone() -> None:
    raw = torch.cat([torch.full((1, 1, 2, 2), 0.3), torch.arange(4.0).view(1, 1, 2, 2)])
    assert normalise(raw)[0].flatten().tolist() == [1, 1, 1, 1]
    assert normalise(raw)[1].min() == 0


def test_what_lies_above_the_quantile_counts_as_one() -> None:
    raw = torch.arange(101.0).view(1, 1, 1, 101)
    found = normalise(raw, upper=0.8).flatten()
    assert found[80:].tolist() == [1.0] * 21
    assert found[40].item() == pytest.approx(0.5)


def test_the_map_is_made_at_the_source(draw: Draw) -> None:
    seen = []

    def edit(z_t: Tensor, t: Tensor) -> Tensor:
        seen.append((z_t, t))
        return torch.zeros_like(z_t)

    SemanticRelevance()(draw, SeparateScores({"edit": edit}).predict(draw, SemanticRelevance.needs))
    ((z_t, t),) = seen
    assert z_t is draw.z_source_t
    assert t is draw.t


def test_the_map_of_a_contrast_with_known_mean(draw: Draw) -> None:
    wanted = torch.arange(9.0).view(1, 1, 3, 3).expand(2, 4, 3, 3)
    found = SemanticRelevance()(draw, {"edit": -wanted})
    assert torch.allclose(found, wanted[:, :1] / 8)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_mixes_the_map_with_ones(draw: Draw, strength: float) -> None:
    edit = torch.arange(9.0).view(1, 1, 3, 3).expand(2, 4, 3, 3)
    found = SemanticRelevance(strength=strength)(draw, {"edit": edit})
    assert torch.allclose(found, 1 - strength + strength * edit[:, :1] / 8)


def test_reduction_and_quantile_are_used(draw: Draw) -> None:
    cells = torch.arange(9.0).view(1, 1, 3, 3)
    edit = torch.cat([cells, -cells, cells, -cells], dim=1).expand(2, -1, -1, -1)
    cancelled = SemanticRelevance()(draw, {"edit": edit})
    kept = SemanticRelevance(reduce=absolute_then_mean, upper=0.5)(draw, {"edit": edit})
    assert cancelled.unique().tolist() == [1.0]
    assert torch.allclose(kept, (cells / 4).clamp(max=1).expand(2, 1, 3, 3))


def test_uniform_relevance_is_one_and_needs_no_prediction(draw: Draw) -> None:
    assert not UniformRelevance().needs
    found = UniformRelevance()(draw, {})
    assert torch.equal(found, torch.ones(2, 1, 3, 3))


def test_contrast_is_conditional_minus_unconditional() -> None:
    one = torch.ones(1, 1, 1, 1)
    assert contrast(5 * one, 2 * one).item() == 3


def test_timesteps_are_the_middles_of_equal_parts() -> None:
    assert evenly_spaced(21, 101, 4).tolist() == [31, 51, 71, 91]
    assert evenly_spaced(21, 499, 1).tolist() == [260]


@given(st.integers(1, 40))
def test_evenly_spaced_timesteps_rise_within_the_range(count: int) -> None:
    found = evenly_spaced(21, 499, count).tolist()
    assert len(found) == count
    assert found == sorted(found)
    assert found[0] >= 21
    assert found[-1] <= 499


def test_a_precomputed_map_is_that_of_the_nearest_timestep_sample_by_sample(schedule: NoiseSchedule) -> None:
    generator = torch.Generator().manual_seed(3)
    z_source = torch.randn(2, 4, 3, 3, generator=generator)
    eps = torch.randn(3, 2, 4, 3, 3, generator=generator)
    asked: list[int] = []

    def edit(z_t: Tensor, t: Tensor) -> Tensor:
        asked.extend(t.tolist())
        return z_t * t.view(-1, 1, 1, 1)

    scores = SeparateScores({"edit": edit})
    times = torch.tensor([100, 200, 300])
    maps = precompute(SemanticRelevance(), schedule, scores, z_source, times, eps)
    assert asked == [100, 100, 200, 200, 300, 300]

    draw = schedule.draw(z_source + 1, z_source, t=torch.tensor([160, 21]), eps=torch.zeros_like(z_source))
    found = maps(draw, {})
    for sample, nearest in enumerate((1, 0)):
        at = schedule.draw(z_source, z_source, t=times[nearest].expand(2), eps=eps[nearest])
        assert torch.equal(found[sample], SemanticRelevance()(at, scores.predict(at, ["edit"]))[sample])


def test_maps_grow_with_the_latents() -> None:
    ramp = torch.linspace(0, 1, 4).expand(3, 2, 1, 4, 4)
    larger = resize_maps(PrecomputedRelevance(torch.tensor([1, 2, 3]), ramp), 8, 8)
    assert larger.maps.shape == (3, 2, 1, 8, 8)
    assert torch.allclose(larger.maps[..., 2:-2].diff(dim=-1), torch.tensor(1 / 6), atol=1e-5)
    assert torch.equal(larger.timesteps, torch.tensor([1, 2, 3]))


def test_a_mask_multiplies_any_map_and_needs_nothing_more(draw: Draw) -> None:
    mask = torch.linspace(0, 1, 18).view(2, 1, 3, 3)
    uniform = MaskedRelevance(UniformRelevance(), mask)
    assert torch.equal(uniform(draw, {}), mask)
    assert uniform.needs == ()
    eps = {"edit": torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))}
    semantic = SemanticRelevance(strength=0.7)
    masked = MaskedRelevance(semantic, mask)
    assert torch.equal(masked(draw, eps), semantic(draw, eps) * mask)
    assert masked.needs == semantic.needs
