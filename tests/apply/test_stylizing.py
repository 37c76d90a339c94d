"""Noise, tiles, and one picture: exact where the network's context is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.apply.tiny import picture, reference

from stylescore_apply.errors import ConfigError
from stylescore_apply.networks import OnnxNetwork
from stylescore_apply.noise import hash32, noise_field
from stylescore_apply.stylizing import OVERHEAD, Settings, stylize, tile_side, to_pixels
from stylescore_apply.tiles import BLEND, Span, largest_side, split_axis, split_evenly

SIDE = 200


def test_the_noise_is_standard_normal() -> None:
    field = noise_field(7, 8, (0, 120), (0, 110))
    assert field.shape == (1, 8, 120, 110)
    assert stats.kstest(field.ravel(), "norm").pvalue > 0.01
    assert abs(field.mean()) < 0.01
    assert field.std() == pytest.approx(1, abs=0.01)


def test_neighbouring_cells_channels_and_seeds_are_not_correlated() -> None:
    field = noise_field(7, 8, (0, 120), (0, 110))[0]
    other = noise_field(8, 8, (0, 120), (0, 110))[0]
    pairs = [
        (field[:, 1:], field[:, :-1]),
        (field[:, :, 1:], field[:, :, :-1]),
        (field[1:], field[:-1]),
        (field, other),
        (field[:, 1:, 1:], field[:, :-1, :-1]),
    ]
    for first, second in pairs:
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / first.size**0.5


def test_a_window_of_the_noise_is_a_part_of_the_whole() -> None:
    whole = noise_field(3, 4, (0, 30), (0, 40))
    np.testing.assert_array_equal(noise_field(3, 4, (7, 19), (11, 40)), whole[:, :, 7:19, 11:40])


def test_the_noise_of_a_seed_never_changes() -> None:
    assert [int(v) for v in hash32(np.array([0, 1, 2**32 - 1], np.uint32))] == [0, 1753845952, 1734902346]
    recorded = [2.3471808, 0.0797645, -0.6725084]
    assert noise_field(0, 1, (0, 1), (0, 3)).ravel().tolist() == pytest.approx(recorded, abs=1e-6)


@given(
    length=st.integers(1, 5000),
    context=st.integers(0, 60),
    extra=st.integers(0, 400),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_spans_cover_an_axis_with_weights_of_one(length: int, context: int, extra: int, multiple: int) -> None:
    side = largest_side(extra**2, context, multiple)
    require_cover(split_axis(length, side, context, multiple), length, side, multiple)


def require_cover(spans: list[Span], length: int, side: int, multiple: int) -> None:
    total = np.zeros(length)
    for span in spans:
        total[span.start : span.stop] += span.weight
        assert span.start % multiple == 0
        assert span.stop - span.start <= side
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert (spans[0].start, spans[-1].stop) == (0, length)


@given(length=st.integers(1, 5000), cells=st.integers(10, 64), multiple=st.sampled_from([4, 8]))
def test_spans_that_fade_cover_an_axis_with_weights_of_one(length: int, cells: int, multiple: int) -> None:
    side = cells * multiple
    spans = split_evenly(length, side, side // 4, multiple)
    require_cover(spans, length, side, multiple)
    for first, second in pairwise(spans):
        assert first.stop - second.start >= side // 4 - multiple  # the starts are rounded


@given(length=st.integers(200, 5000), context=st.integers(0, 60), extra=st.integers(0, 400))
def test_pixels_whose_context_is_cut_off_have_no_weight(length: int, context: int, extra: int) -> None:
    for span in split_axis(length, largest_side(extra**2, context, 8), context, 8):
        inner = slice(context if span.start else 0, -context if span.stop < length and context else None)
        outside = span.weight.sum() - span.weight[inner].sum()
        assert outside == pytest.approx(0, abs=1e-4)


def test_spans_are_no_longer_than_their_number_needs() -> None:
    """Two spans of 3000 pixels need 1500 and half of their overlap each, though tiles might be larger."""
    overlap = 2 * 40 + BLEND
    spans = split_axis(3000, 1880, 40, 8)
    lengths = [span.stop - span.start for span in spans]
    assert len(spans) == 2
    assert max(lengths) - (3000 + overlap) / 2 <= 16
    assert lengths[0] - spans[1].start >= overlap


@given(height=st.integers(1, 200), width=st.integers(1, 20))
def test_numbers_become_levels_band_by_band(height: int, width: int) -> None:
    values = np.random.default_rng(height).uniform(-0.2, 1.2, (3, height, width)).astype(np.float32)
    levels = np.rint(np.clip(values, 0, 1) * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(to_pixels(values), levels)


@pytest.mark.parametrize(("width", "height"), [(40, 24), (41, 23), (8, 8), (9, 300)])
def test_a_picture_is_what_the_network_computes(network: OnnxNetwork, width: int, height: int) -> None:
    photo = picture(width, height)
    noise = noise_field(5, 2, (0, -(-height // 8)), (0, -(-width // 8)))
    result = stylize(network, photo, Settings(seed=5))
    assert (result.shape, result.dtype) == (photo.shape, np.uint8)
    np.testing.assert_allclose(result, reference(photo, noise) * 255, atol=0.51)


@pytest.mark.parametrize(("width", "height"), [(500, 300), (301, 517), (1024, 70), (65, 900)])
def test_tiles_equal_the_whole(network_file: Callable[..., Path], width: int, height: int) -> None:
    network = OnnxNetwork(network_file(facts={"bytes_per_pixel": int(2**20 * 64 / OVERHEAD / SIDE**2)}), threads=1)
    photo = picture(width, height)
    tiled, whole = Settings(memory_limit=64), Settings(memory_limit=4096)
    assert tile_side(network.facts, height, width, tiled) is not None
    assert tile_side(network.facts, height, width, whole) is None
    difference = np.abs(stylize(network, photo, tiled).astype(int) - stylize(network, photo, whole))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001  # numbers exactly between two values


def test_tiles_of_a_network_that_sees_the_whole_picture_are_near_it(network_file: Callable[..., Path]) -> None:
    path = network_file(facts={"context": None, "bytes_per_pixel": 800}, whole=True)
    network = OnnxNetwork(path, threads=1)
    photo = picture(700, 400)
    tiled = stylize(network, photo, Settings(memory_limit=64)).astype(int)
    whole = stylize(network, photo, Settings(memory_limit=4096)).astype(int)
    assert tile_side(network.facts, 400, 700, Settings(memory_limit=64)) is not None
    assert 0 < np.abs(tiled - whole).max() < 20


def test_tiles_of_one_picture_are_blended_where_they_disagree() -> None:
    """A jump of 1 between two tiles rises by at most 1 / BLEND for each pixel."""
    first, second = split_axis(300, 200, 10, 8)
    seam = np.zeros(300)
    seam[second.start : second.stop] += second.weight
    assert np.abs(np.diff(seam)).max() == pytest.approx(1 / BLEND, abs=0.01)
    assert first.weight[0] == second.weight[-1] == 1


def test_strength_mixes_the_picture_with_the_photo(network: OnnxNetwork) -> None:
    photo = picture()
    full = stylize(network, photo, Settings()).astype(float)
    np.testing.assert_array_equal(stylize(network, photo, Settings(strength=0)), photo)
    half = stylize(network, photo, Settings(strength=0.5))
    np.testing.assert_allclose(half, (photo + full) / 2, atol=0.51)


def test_a_second_pass_stylizes_the_picture_of_the_first(network: OnnxNetwork) -> None:
    photo, one = picture(), Settings(seed=3)
    twice = stylize(network, stylize(network, photo, one), one)
    assert (twice != stylize(network, photo, one)).any()
    np.testing.assert_array_equal(stylize(network, photo, Settings(seed=3, passes=2)), twice)


def test_strength_mixes_the_last_pass_with_the_photo(network: OnnxNetwork) -> None:
    photo = picture()
    full = stylize(network, photo, Settings(passes=3)).astype(float)
    half = stylize(network, photo, Settings(passes=3, strength=0.5))
    np.testing.assert_allclose(half, (photo + full) / 2, atol=0.51)


def test_a_file_states_passes_and_strength_for_what_is_left_open(network_file: Callable[..., Path]) -> None:
    plain = OnnxNetwork(network_file(), threads=1)
    stating = OnnxNetwork(network_file("stating", {"passes": 3, "strength": 0.5}), threads=1)
    photo = picture()
    for asked, equal in (
        (Settings(), Settings(passes=3, strength=0.5)),
        (Settings(strength=0.25), Settings(passes=3, strength=0.25)),
        (Settings(passes=2), Settings(passes=2, strength=1)),
        (Settings(passes=1, strength=0.5), Settings(passes=1, strength=0.5)),
    ):
        np.testing.assert_array_equal(stylize(stating, photo, asked), stylize(plain, photo, equal))
    assert (stylize(stating, photo, Settings()) != stylize(plain, photo, Settings())).any()


def test_another_seed_moves_the_noise_only(network_file: Callable[..., Path]) -> None:
    photo = picture()
    noisy, plain = OnnxNetwork(network_file()), OnnxNetwork(network_file("plain", {"noise_channels": 0}))
    assert (stylize(noisy, photo, Settings(seed=1)) != stylize(noisy, photo, Settings(seed=2))).any()
    np.testing.assert_array_equal(stylize(plain, photo, Settings(seed=1)), stylize(plain, photo, Settings(seed=2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed must be a whole number between 0 and 4294967295, not -1"),
        ({"seed": 2**32}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"strength": 1.5}, "strength must be between 0 and 1, not 1.5"),
        ({"strength": float("nan")}, "strength must be between 0 and 1, not nan"),
        ({"passes": 0}, "passes must be a whole number between 1 and 8, not 0"),
        ({"passes": 9}, "passes must be a whole number"),
        ({"memory_limit": 1}, "memory_limit must be a whole number between 64"),
    ],
)
def test_numbers_out_of_range_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**given)
