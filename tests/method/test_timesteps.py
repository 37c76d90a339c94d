from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stylescore.method.timesteps import Annealed, Grid, Narrowing, Staged, TimestepSampler, Uniform

SMS = Grid(t_min=21, t_max=499)
VSD = Grid(t_min=21, t_max=979)

grids = st.builds(
    lambda t_min, span, stride: Grid(t_min=t_min, t_max=min(t_min + span, 999), stride=stride),
    st.integers(3, 900),
    st.integers(5, 900),
    st.integers(1, 5),
)
progresses = st.floats(0, 1, exclude_max=True)


def one(seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed)]


@pytest.mark.parametrize("iterations", [30, 500])
def test_narrowing_opens_the_recorded_range_at_every_iteration(units: dict[str, Tensor], iterations: int) -> None:
    recorded = units[f"t_index_range/sms_{iterations}"]
    ours = [[SMS.low, Narrowing(SMS).high(i / iterations)] for i in range(iterations)]
    assert ours == recorded.tolist()


@pytest.mark.parametrize("iterations", [30, 500])
def test_uniform_has_the_recorded_range_of_vsd(units: dict[str, Tensor], iterations: int) -> None:
    assert units[f"t_index_range/vsd_{iterations}"].tolist() == [[VSD.low, VSD.high]] * iterations


def test_the_fake_score_has_the_recorded_ranges(units_table: dict[str, list[int]]) -> None:
    assert units_table["adapter_step_t_index_range/sms"] == [SMS.low, SMS.high]
    assert units_table["adapter_step_t_index_range/vsd"] == [VSD.low, VSD.high]


def test_the_grid_has_the_recorded_points(units: dict[str, Tensor]) -> None:
    assert units["schedule/timesteps_ascending"].tolist() == [SMS.at(k) for k in range(500)]


@given(grids, progresses)
def test_narrowing_is_never_empty_and_never_wider_than_the_grid(grid: Grid, progress: float) -> None:
    assert grid.low < Narrowing(grid).high(progress) <= grid.high


@given(grids, progresses, st.integers(0, 2**31))
def test_every_sampler_stays_on_the_grid_and_in_the_range(grid: Grid, progress: float, seed: int) -> None:
    for sampler in (Uniform(grid), Narrowing(grid), Annealed(grid)):
        t = int(sampler(progress, one(seed)))
        assert grid.t_min <= t <= grid.t_max
        assert (t - 1) % grid.stride == 0


@given(st.integers(3, 990), st.integers(2, 5))
def test_both_ends_of_a_uniform_range_are_drawn(t_min: int, points: int) -> None:
    first = t_min if t_min % 2 else t_min + 1
    grid = Grid(t_min=t_min, t_max=first + 2 * (points - 1))
    rng = one(0)
    drawn = {int(Uniform(grid)(0.0, rng)) for _ in range(200)}
    assert drawn == set(range(first, first + 2 * points, 2))


def test_narrowing_ends_at_the_smallest_timestep() -> None:
    rng = one(1)
    assert {int(Narrowing(SMS)(499 / 500, rng)) for _ in range(20)} == {21}


def test_narrowing_starts_with_the_whole_range() -> None:
    rng = one(1)
    drawn = {int(Narrowing(SMS)(0.0, rng)) for _ in range(5000)}
    assert drawn == set(range(21, 500, 2))


def test_annealed_falls_from_the_largest_towards_the_smallest_timestep() -> None:
    path = [int(Annealed(SMS)(i / 500, one(0))) for i in range(500)]
    assert path[0] == 499
    assert path[-1] in (21, 23)
    assert path == sorted(path, reverse=True)
    assert int(Annealed(SMS)(0.5, one(0))) == 261


@pytest.mark.parametrize("sampler", [Uniform(SMS), Narrowing(SMS), Annealed(SMS)])
def test_a_sample_draws_the_same_timestep_in_any_batch(sampler: TimestepSampler) -> None:
    together = sampler(0.2, [*one(3), *one(4), *one(5)])
    alone = [int(sampler(0.2, one(seed))) for seed in (3, 4, 5)]
    assert together.tolist() == alone
    assert together.dtype == torch.int64


def test_samples_draw_timesteps_of_their_own() -> None:
    t = Uniform(SMS)(0.0, [g for seed in range(8) for g in one(seed)])
    assert len(set(t.tolist())) > 4


def test_two_stages_each_count_their_own_progress(rngs: Callable[..., list[torch.Generator]]) -> None:
    staged = Staged(Annealed(Grid(t_min=21, t_max=499)), Annealed(Grid(t_min=21, t_max=101)), share=0.75)
    found = [int(staged(progress, rngs(1))) for progress in (0.0, 0.375, 0.7499, 0.75, 0.875, 0.9999)]
    assert found == [499, 261, 21, 101, 61, 21]
