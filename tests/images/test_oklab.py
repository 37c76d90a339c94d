"""Oklab: published values, a round trip to the bit, and chroma that is mixed in the stated share."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylescore.images import as_photo, finish, keep_colours
from stylescore.images.oklab import from_oklab, to_oklab

MILD = np.random.default_rng(0).integers(90, 166, (40, 30, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(90, 166, (40, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (0.6280, 0.2249, 0.1258)),
        ((0, 255, 0), (0.8664, -0.2339, 0.1795)),
        ((0, 0, 255), (0.4520, -0.0324, -0.3115)),
    ],
)
def test_published_values(colour: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert to_oklab(np.array([colour], dtype=np.uint8))[0].tolist() == pytest.approx(lab, abs=2e-4)


def test_all_colours_come_back_to_the_bit() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    assert (from_oklab(to_oklab(cube)) == cube).all()


def test_no_share_is_the_picture_itself() -> None:
    picture = Image.fromarray(MILD)
    assert keep_colours(picture, Image.fromarray(OTHER), 0) is picture


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_chroma_is_mixed_and_lightness_stays(share: float) -> None:
    mixed = to_oklab(np.asarray(keep_colours(Image.fromarray(MILD), Image.fromarray(OTHER), share)))
    picture, photo = to_oklab(MILD), to_oklab(OTHER)
    assert np.abs(mixed[..., 0] - picture[..., 0]).max() < 4e-3  # rounding to 8 bits
    wanted = (1 - share) * picture[..., 1:] + share * photo[..., 1:]
    assert np.abs(mixed[..., 1:] - wanted).max() < 4e-3


def test_a_picture_with_its_own_colours_stays() -> None:
    assert (np.asarray(keep_colours(Image.fromarray(MILD), Image.fromarray(MILD), 1)) == MILD).all()


def test_a_grey_photo_makes_a_grey_picture() -> None:
    grey = np.repeat(OTHER[..., :1], 3, axis=-1)
    mixed = np.asarray(keep_colours(Image.fromarray(MILD), Image.fromarray(grey), 1)).astype(int)
    assert np.ptp(mixed, axis=-1).max() <= 1


def test_a_colour_out_of_range_keeps_its_hue_and_lightness() -> None:
    picture, photo = np.full((4, 4, 3), 250, np.uint8), np.zeros((4, 4, 3), np.uint8)
    photo[..., 2] = 255  # no sRGB colour is as light as the picture and as blue as the photo
    mixed = to_oklab(np.asarray(keep_colours(Image.fromarray(picture), Image.fromarray(photo), 1)))[0, 0]
    light, blue = to_oklab(picture)[0, 0], to_oklab(photo)[0, 0]
    assert mixed[0] == pytest.approx(light[0], abs=5e-3)
    assert 0.002 < np.hypot(*mixed[1:]) < np.hypot(*blue[1:])
    assert np.arctan2(mixed[2], mixed[1]) == pytest.approx(np.arctan2(blue[2], blue[1]), abs=0.35)


def test_strips_do_not_show() -> None:
    tall = np.tile(MILD, (15, 1, 1))
    other = np.tile(OTHER, (15, 1, 1))
    whole = np.asarray(keep_colours(Image.fromarray(tall), Image.fromarray(other), 0.7))
    assert (whole[:40] == whole[560:600]).all()


def test_the_finished_picture_has_the_photos_chroma() -> None:
    photo = as_photo(OTHER)
    finished = to_oklab(np.asarray(finish(Image.fromarray(MILD), photo, 1)))
    assert np.abs(finished[..., 1:] - to_oklab(OTHER)[..., 1:]).max() < 4e-3
