from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore.images import Photo, resize_to_photo
from stylescore.images.upsampling import RADIUS, ROWS, THRESHOLD, soft_threshold, upsample_guided, window_mean

SMALL = (30, 20)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth_noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return noise(max(1, width // 6), max(1, height // 6), seed).resize((width, height), Image.Resampling.BICUBIC)


def lanczos(picture: Image.Image, guide: Image.Image) -> Image.Image:
    return picture.resize(guide.size, Image.Resampling.LANCZOS)


def reduced(picture: Image.Image, size: tuple[int, int] = SMALL) -> Image.Image:
    return picture.resize(size, Image.Resampling.BOX)


def distance(one: Image.Image, other: Image.Image) -> np.ndarray:
    return np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float))


def step(size: tuple[int, int], slanted: float = 0.0) -> Image.Image:
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    luma = np.where(x + slanted * y < 0.47 * size[0], 60, 200).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(luma)] * 3)


def affine(picture: Image.Image) -> Image.Image:
    """Return reds turned round, greens at half contrast, blues moved: a style that is exactly affine in luma."""
    red, green, blue = (np.asarray(channel).astype(int) for channel in picture.split())
    return Image.fromarray(np.stack([255 - red, green // 2 + 20, blue + 30], axis=-1).astype(np.uint8))


def test_soft_threshold_is_the_closed_form() -> None:
    moved = soft_threshold(np.float32([-9, -6, -1, 0, 2, 6, 10]), 6)
    assert moved.tolist() == [-3, 0, 0, 0, 0, 0, 4]


def test_window_mean_is_numpys() -> None:
    plane = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    padded = np.pad(plane, RADIUS, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * RADIUS + 1, 2 * RADIUS + 1))
    assert np.allclose(window_mean(plane), windows.mean((-2, -1)), atol=1e-6)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (17, 128, 240)])
def test_a_constant_picture_stays_constant(colour: tuple[int, int, int]) -> None:
    enlarged = upsample_guided(Image.new("RGB", SMALL, colour), noise(113, 87))
    assert enlarged.getcolors() == [(113 * 87, colour)]


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("slanted", [0.0, 0.3])
def test_an_affine_styles_edge_has_less_than_half_of_lanczos_error(factor: int, slanted: float) -> None:
    guide = step((30 * factor, 20 * factor), slanted)
    exact = affine(guide)
    picture = reduced(exact)
    error = distance(upsample_guided(picture, guide), exact).mean()
    assert error < 0.5 * distance(lanczos(picture, guide), exact).mean()


def test_the_worst_miss_at_an_edge_is_a_third_of_lanczos() -> None:
    guide = step((120, 80))
    exact = affine(guide)
    picture = reduced(exact)
    missed = distance(upsample_guided(picture, guide), exact).max()
    assert missed < 3 * THRESHOLD
    assert missed < distance(lanczos(picture, guide), exact).max() / 3


def test_an_uncorrelated_picture_is_lanczos() -> None:
    x = np.broadcast_to(np.where(np.arange(120) < 60, 40, 220).astype(np.uint8), (80, 120))
    guide = Image.merge("RGB", [Image.fromarray(x)] * 3)
    y = np.broadcast_to(np.linspace(30, 220, 20).astype(np.uint8)[:, None], (20, 30))
    picture = Image.merge("RGB", [Image.fromarray(y)] * 3)
    assert distance(upsample_guided(picture, guide), lanczos(picture, guide)).max() <= 1


def test_fine_texture_is_not_pasted_on_a_flat_style() -> None:
    texture = np.random.default_rng(0).normal(128, 12, (160, 240, 1)).clip(0, 255).astype(np.uint8)
    guide = Image.fromarray(np.repeat(texture, 3, axis=-1))
    brushed = Image.fromarray(np.random.default_rng(1).integers(117, 124, (20, 30, 3), dtype=np.uint8))
    without = upsample_guided(brushed, Image.new("RGB", guide.size, "gray"))
    assert distance(upsample_guided(brushed, guide), without).max() <= 1


def test_texture_that_the_style_follows_only_on_average_stays_behind() -> None:
    texture = np.random.default_rng(0).normal(128, 25, (160, 240, 1)).clip(0, 255).astype(np.uint8)
    guide = Image.fromarray(np.repeat(texture, 3, axis=-1))
    picture = reduced(guide)
    pasted = distance(upsample_guided(picture, guide), lanczos(picture, guide)).std()
    assert pasted < 0.1 * distance(guide, lanczos(picture, guide)).std()


def test_grain_below_the_threshold_stays_behind_in_a_style_that_follows_every_edge() -> None:
    grain = np.random.default_rng(0).integers(0, int(THRESHOLD), (80, 120, 1), dtype=np.uint8)
    clean = step((120, 80))
    grained = Image.fromarray(np.asarray(clean) + grain)
    picture = reduced(affine(clean))
    assert distance(upsample_guided(picture, grained), upsample_guided(picture, clean)).mean() < 0.3


def test_values_stay_in_the_local_range() -> None:
    picture, guide = noise(*SMALL, seed=1), noise(121, 83, seed=2)
    enlarged = np.asarray(upsample_guided(picture, guide), dtype=int)
    padded = np.pad(np.asarray(picture, dtype=int), ((3, 3), (3, 3), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), axis=(0, 1))
    rows, columns = np.arange(83) * 20 // 83, np.arange(121) * 30 // 121
    here = windows[rows[:, None], columns]
    assert (enlarged >= here.min((-2, -1))).all()
    assert (enlarged <= here.max((-2, -1))).all()


def test_an_edge_has_no_halo() -> None:
    guide = step((240, 160))
    exact = affine(guide)
    for channel, true in zip(upsample_guided(reduced(exact), guide).split(), exact.split(), strict=True):
        assert channel.getextrema() == true.getextrema()


def test_strips_do_not_show() -> None:
    size = (90, 2 * ROWS + 37)
    guide = smooth_noise(*size)
    picture = affine(reduced(guide, (23, 140)).convert("L").convert("RGB"))
    whole = np.asarray(upsample_guided(picture, guide), dtype=int)
    turned = upsample_guided(picture.transpose(Image.Transpose.ROTATE_90), guide.transpose(Image.Transpose.ROTATE_90))
    assert np.abs(whole - np.asarray(turned.transpose(Image.Transpose.ROTATE_270), dtype=int)).max() <= 1


@pytest.mark.parametrize("small", [(1, 1), (1, 9), (9, 1), (2, 3), (16, 16), (31, 7)])
@pytest.mark.parametrize("large", [(31, 16), (32, 45), (100, 16)])
def test_every_pair_of_sizes_works(small: tuple[int, int], large: tuple[int, int]) -> None:
    enlarged = upsample_guided(noise(*small, seed=1), noise(*large))
    assert (enlarged.mode, enlarged.size) == ("RGB", large)


def test_a_guide_of_equal_size_changes_nothing() -> None:
    picture = noise(*SMALL, seed=1)
    assert upsample_guided(picture, noise(*SMALL)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("size", [(12, 9), (1, 1), (12, 40), (60, 19)])
def test_a_guide_smaller_on_a_side_means_lanczos(size: tuple[int, int]) -> None:
    picture, guide = noise(*SMALL, seed=1), noise(*size)
    assert upsample_guided(picture, guide).tobytes() == lanczos(picture, guide).tobytes()


def test_a_result_comes_back_with_its_photos_edges() -> None:
    guide = step((120, 80))
    alpha = Image.new("L", guide.size, 99)
    picture = reduced(affine(guide))
    back = resize_to_photo(picture, Photo(Path("a.png"), guide, alpha))
    assert back.convert("RGB").tobytes() == upsample_guided(picture, guide).tobytes()
    assert back.getchannel("A").tobytes() == alpha.tobytes()
