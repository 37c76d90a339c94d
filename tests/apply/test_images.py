"""What a result keeps of its photo: orientation applied, EXIF without location, colours, transparency."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from tests.apply.tiny import picture
from tests.images.profiles import wide_rgb

from stylescore_apply.errors import ConfigError, PictureError
from stylescore_apply.images.exif import exif_for, has_place
from stylescore_apply.images.reading import read_photo
from stylescore_apply.images.writing import FORMATS, check_quality, encode_picture, require_format

PhotoFile = Callable[..., Path]
GPS = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}


def exif(**details: object) -> Image.Exif:
    made = Image.Exif()
    made[ExifTags.Base.Orientation] = 6
    made[ExifTags.Base.Make] = "Maker"
    made[ExifTags.Base.Copyright] = "Somebody"
    made[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2026:01:02 03:04:05",
        ExifTags.Base.ExposureTime: 0.5,
        ExifTags.Base.ExifImageWidth: 40,
        ExifTags.Base.ExifImageHeight: 24,
        ExifTags.Base.MakerNote: b"offsets into another file",
    }
    made[ExifTags.IFD.GPSInfo] = GPS
    return made


@pytest.mark.parametrize("chosen", FORMATS)
def test_exif_is_kept_upright_and_without_the_place(photo_file: PhotoFile, chosen: str) -> None:
    photo = read_photo(photo_file("a.jpg", exif=exif()))
    assert photo.picture.size == (24, 40)
    assert has_place(photo.exif)
    content = encode_picture(photo.picture, chosen, exif=exif_for(photo.exif, (24, 40), keep_location=False))
    with Image.open(io.BytesIO(content)) as result:
        assert result.size == (24, 40)
        found = result.getexif()
        details = found.get_ifd(ExifTags.IFD.Exif)
        assert (found[ExifTags.Base.Make], found[ExifTags.Base.Copyright]) == ("Maker", "Somebody")
        assert found.get(ExifTags.Base.Orientation, 1) == 1
        assert details[ExifTags.Base.DateTimeOriginal] == "2026:01:02 03:04:05"
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (24, 40)
        assert ExifTags.Base.MakerNote not in details
        assert not found.get_ifd(ExifTags.IFD.GPSInfo)


def test_the_place_is_kept_if_asked_for(photo_file: PhotoFile) -> None:
    photo = read_photo(photo_file("a.jpg", exif=exif()))
    kept = exif_for(photo.exif, photo.picture.size, keep_location=True)
    with Image.open(io.BytesIO(encode_picture(photo.picture, "jpeg", exif=kept))) as result:
        assert dict(result.getexif().get_ifd(ExifTags.IFD.GPSInfo)) == GPS


def test_a_photo_without_exif_has_none(photo_file: PhotoFile) -> None:
    assert read_photo(photo_file("a.jpg")).exif is None


def test_damaged_exif_is_left_out(photo_file: PhotoFile) -> None:
    path = photo_file("a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(40))
    assert read_photo(path).exif is None


def test_a_wide_profile_is_kept_and_the_colours_with_it(photo_file: PhotoFile) -> None:
    photo = read_photo(photo_file("a.png", icc_profile=wide_rgb()))
    assert photo.profile == wide_rgb()
    for chosen in ("png", "jpeg", "webp", "avif"):
        content = encode_picture(photo.picture, chosen, quality=100, profile=photo.profile)
        with Image.open(io.BytesIO(content)) as result:
            assert result.info["icc_profile"] == wide_rgb()
    with Image.open(io.BytesIO(encode_picture(photo.picture, "png", profile=photo.profile))) as result:
        again = ImageCms.profileToProfile(
            result, ImageCms.ImageCmsProfile(io.BytesIO(wide_rgb())), ImageCms.createProfile("sRGB")
        )
    difference = np.abs(np.asarray(again, dtype=int) - np.asarray(photo.picture))
    assert difference.mean() < 1


def test_a_profile_that_is_no_profile_is_left_out(photo_file: PhotoFile) -> None:
    photo = read_photo(photo_file("a.png", icc_profile=b"no profile"))
    assert photo.profile == b""
    assert any("colour profile is unreadable" in note for note in photo.notes)


@pytest.mark.parametrize("chosen", ["png", "webp", "avif"])
def test_transparency_is_kept(chosen: str) -> None:
    alpha = Image.fromarray(picture()[..., 0])
    image = Image.merge("RGBA", (*Image.fromarray(picture()).split(), alpha))
    with Image.open(io.BytesIO(encode_picture(image, chosen, quality=100))) as result:
        assert result.mode == "RGBA"
        np.testing.assert_allclose(np.asarray(result.getchannel("A")), np.asarray(alpha), atol=3)


def test_jpeg_lays_transparent_parts_on_white() -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    with Image.open(io.BytesIO(encode_picture(image, "jpeg"))) as result:
        assert np.asarray(result).min() > 250


@pytest.mark.parametrize("chosen", ["jpeg", "webp", "avif"])
def test_quality_is_heeded(chosen: str) -> None:
    image = Image.fromarray(picture(128, 128))
    assert len(encode_picture(image, chosen, quality=20)) < len(encode_picture(image, chosen, quality=95)) / 2


def test_a_picture_that_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(PictureError, match="WEBP allows sides of 16,383 pixels, the picture has 16384 x 8"):
        encode_picture(Image.new("RGB", (16384, 8)), "webp")


@pytest.mark.parametrize("quality", [0, 101, True])
def test_a_quality_out_of_range_is_refused(quality: int) -> None:
    with pytest.raises(ConfigError, match="quality must be a whole number between 1 and 100"):
        check_quality(quality)


def test_a_format_that_pillow_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylescore_apply.images.writing.features.check", lambda name: False)
    with pytest.raises(ConfigError, match="cannot write AVIF"):
        require_format("avif")
