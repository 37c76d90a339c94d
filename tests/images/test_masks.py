"""Masks: black keeps the photo to the bit, white is stylized, and the soft edge lies inside of the white part."""

from __future__ import annotations

from math import erf, sqrt
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore.errors import PictureError
from stylescore.images import Photo, as_photo, finish, read_photo, to_tensor, with_mask
from stylescore.images.masks import soften
from stylescore.images.tensors import mask_tensor

NOISE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def half(width: int = 90, height: int = 60) -> Image.Image:
    """Return a mask whose right half is white."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def test_the_soft_edge_is_an_error_function_inside_of_the_white_part() -> None:
    soft = np.asarray(soften(half(400, 60), 20)).astype(float)
    assert (soft[:, :200] == 0).all()
    for x in (2, 5, 10, 20, 40):
        assert soft[30, 200 + x] / 255 == pytest.approx(erf((x + 0.5) / 10 / sqrt(2)), abs=0.03)
    assert (soft[:, 250:] == 255).all()


def test_what_is_black_stays_black_at_any_shape_and_grey_stays_grey() -> None:
    mask = Image.fromarray(np.random.default_rng(1).choice([0, 128, 255], (60, 90)).astype(np.uint8))
    assert not np.asarray(soften(mask, 9))[np.asarray(mask) == 0].any()
    assert soften(Image.new("L", (50, 50), 100), 9).getcolors() == [(2500, 100)]
    assert soften(mask, 0) is mask


def test_the_finished_picture_has_the_photos_pixels_where_the_mask_is_black() -> None:
    photo = with_mask(as_photo(NOISE), half(), feather=6)
    made = Image.new("RGB", (45, 30), (1, 2, 3))
    with_it, without = (np.asarray(finish(made, each, 0)) for each in (photo, as_photo(NOISE)))
    assert (with_it[:, :45] == NOISE[:, :45]).all()
    assert (with_it[:, 60:] == without[:, 60:]).all()


def test_a_mask_is_resized_to_its_photo() -> None:
    photo = with_mask(as_photo(NOISE), half(45, 30), feather=0)
    assert photo.mask is not None
    assert photo.mask.size == (90, 60)
    values = np.asarray(photo.mask)
    assert (values[:, :40].max(), values[:, 50:].min()) == (0, 255)


@pytest.mark.parametrize("size", [(60, 90), (90, 70), (90, 90)])
def test_another_aspect_ratio_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    half(*size).save(tmp_path / "mask.png")
    with pytest.raises(
        PictureError, match=rf"mask.png' has another aspect ratio than its photo: {size[0]} x {size[1]}"
    ):
        with_mask(as_photo(NOISE), tmp_path / "mask.png")


def turned_photo(path: Path) -> Photo:
    """Write a photo whose EXIF data turn it by a quarter, and read it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(path, exif=exif)
    return read_photo(path)


def test_a_mask_made_for_the_unturned_pixels_is_turned_like_its_photo(tmp_path: Path) -> None:
    photo = turned_photo(tmp_path / "photo.png")
    assert photo.picture.size == (60, 90)
    upright = half().transpose(Image.Transpose.ROTATE_270)
    for mask in (half(), upright):
        masked = with_mask(photo, mask, feather=0)
        assert masked.mask is not None
        assert np.array_equal(np.asarray(masked.mask), np.asarray(upright))


def test_a_mask_turned_by_its_own_exif_data(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    half().save(tmp_path / "mask.png", exif=exif)
    photo = Photo(Path("a"), Image.new("RGB", (60, 90)))
    masked = with_mask(photo, tmp_path / "mask.png", feather=0)
    assert masked.mask is not None
    assert np.array_equal(np.asarray(masked.mask), np.asarray(half().transpose(Image.Transpose.ROTATE_270)))


def test_transparent_parts_of_a_mask_are_black_and_colours_count_by_their_lightness() -> None:
    mask = Image.new("RGBA", (90, 60), "white")
    mask.paste((255, 255, 255, 0), (0, 0, 45, 60))
    masked = with_mask(as_photo(NOISE), mask, feather=0)
    assert np.array_equal(np.asarray(masked.mask), np.asarray(half()))


def test_the_default_feather_is_a_part_of_the_short_side() -> None:
    photo = as_photo(np.zeros((400, 600, 3), dtype=np.uint8))
    default, stated = (with_mask(photo, half(600, 400), feather).mask for feather in (None, 4))
    assert np.array_equal(np.asarray(default), np.asarray(stated))


def test_the_map_of_a_mask_is_its_mean_in_each_cell() -> None:
    values = mask_tensor(half(), (9, 6))
    assert values.shape == (1, 1, 6, 9)
    assert values[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.5, 1, 1, 1, 1], abs=0.01)
    assert mask_tensor(None, (3, 2)).tolist() == [[[[1.0] * 3] * 2]]


def test_a_phone_photo_given_as_an_image_is_turned(tmp_path: Path) -> None:
    by_path = turned_photo(tmp_path / "phone.png")
    with Image.open(tmp_path / "phone.png") as image:
        by_image = as_photo(image)
    assert by_image.picture.size == (60, 90)
    assert np.array_equal(np.asarray(by_image.picture), np.asarray(by_path.picture))
    assert to_tensor(by_image.visible, (6, 9)).equal(to_tensor(by_path.visible, (6, 9)))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_is_painted_by_its_transparency_alone_is_refused(tmp_path: Path, mode: str) -> None:
    mask = Image.new(mode, (60, 40))
    mask.putalpha(Image.linear_gradient("L").resize((60, 40)))
    mask.save(tmp_path / "mask.png")
    photo = as_photo(np.zeros((40, 60, 3), dtype=np.uint8))
    with pytest.raises(PictureError, match="is painted by its transparency alone: all that can be seen of it is black"):
        with_mask(photo, tmp_path / "mask.png")
