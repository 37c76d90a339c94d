"""The file of a result: its format, its recipe, and what it takes over from the photo's file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from stylescore.config.output import OutputConfig
from stylescore.errors import PictureError
from stylescore.images import Photo, read_metadata, read_photo, save_result
from stylescore.images.writing import check_side

Base, IFD = ExifTags.Base, ExifTags.IFD
SMOOTH = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 90)])
TEXTS = {"stylescore": '[run]\nstyle = "süß 絵 🎨" # <a> & "b"\n', "other": "]]> &amp;"}
FORMATS = ("png", "jpeg", "webp")


def output(format: str, **options: Any) -> OutputConfig:
    return OutputConfig(format=format, **options)  # type: ignore[arg-type]


def phone_photo(path: Path, **options: Any) -> Photo:
    """Write a photo as a phone does, turned and with the place, and read it."""
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make], exif[Base.DateTime] = 6, "Maker", "2024:05:06 07:08:09"
    exif.get_ifd(IFD.Exif).update({Base.FNumber: 1.8, Base.ExifImageWidth: 60, Base.MakerNote: b"secret place"})
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (52.0, 30.0, 0.0)})
    SMOOTH.resize((60, 40)).save(path, exif=exif, **options)
    return read_photo(path)


@pytest.mark.parametrize("format", FORMATS)
def test_the_recipe_is_in_every_format(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{output(format).suffix}"
    save_result(SMOOTH, path, Photo(Path("a"), SMOOTH), output(format), TEXTS)
    with Image.open(path) as back:
        assert back.format == {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}[format]
        assert np.abs(np.asarray(back).astype(int) - np.asarray(SMOOTH)).mean() < 3
    assert read_metadata(path) == TEXTS


@pytest.mark.parametrize("format", FORMATS)
def test_exif_data_come_along_upright_and_without_the_place(format: str, tmp_path: Path) -> None:
    photo = phone_photo(tmp_path / "phone.jpg")
    for keep in (False, True):
        path = tmp_path / f"{keep}{output(format).suffix}"
        save_result(photo.picture, path, photo, output(format, keep_location=keep))
        with Image.open(path) as back:
            exif = back.getexif()
            camera = exif.get_ifd(IFD.Exif)
            assert exif[Base.Orientation] == 1
            assert (exif[Base.Make], exif[Base.DateTime]) == ("Maker", "2024:05:06 07:08:09")
            assert camera[Base.FNumber] == pytest.approx(1.8)
            assert (camera[Base.ExifImageWidth], camera[Base.ExifImageHeight]) == back.size == (40, 60)
            assert (2 in exif.get_ifd(IFD.GPSInfo)) is keep
        assert b"secret place" not in path.read_bytes()
        assert read_photo(path).picture.size == (40, 60)


@cache
def wide_profile() -> bytes:
    """Return an RGB profile with other primaries than sRGB: red and green of sRGB exchanged is easily told apart."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    described = profile.find("sRGB".encode("utf-16-be"))
    if described > 0:
        profile[described : described + 8] = "test".encode("utf-16-be")
    return bytes(profile)


@pytest.mark.parametrize("format", FORMATS)
def test_the_colour_profile_comes_along_and_the_colours_are_in_it(format: str, tmp_path: Path) -> None:
    SMOOTH.save(tmp_path / "wide.png", icc_profile=wide_profile())
    photo = read_photo(tmp_path / "wide.png")
    assert np.abs(np.asarray(photo.picture).astype(int) - np.asarray(SMOOTH)).mean() > 20
    path = tmp_path / f"a{output(format).suffix}"
    save_result(photo.picture, path, photo, output(format, quality=100))
    with Image.open(path) as back:
        assert back.info["icc_profile"] == wide_profile()
    again = read_photo(path)
    assert np.abs(np.asarray(again.picture).astype(int) - np.asarray(photo.picture)).mean() < 2.5


def test_an_srgb_profile_comes_along_and_changes_no_pixel(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    SMOOTH.save(tmp_path / "a.png", icc_profile=profile)
    photo = read_photo(tmp_path / "a.png")
    save_result(photo.picture, tmp_path / "b.png", photo, output("png"))
    with Image.open(tmp_path / "b.png") as back:
        assert back.info["icc_profile"] == profile
        assert np.array_equal(np.asarray(back), np.asarray(SMOOTH))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_profile_that_is_not_for_rgb_is_left_out(mode: str, tmp_path: Path) -> None:
    SMOOTH.convert(mode).save(tmp_path / "a.jpg", icc_profile=wide_profile().replace(b"RGB ", b"GRAY", 1))
    assert read_photo(tmp_path / "a.jpg").profile == b""


def test_transparency_stays_where_the_format_has_it(tmp_path: Path) -> None:
    picture = SMOOTH.copy()
    picture.putalpha(Image.linear_gradient("L"))
    photo = Photo(Path("a"), SMOOTH)
    for format, mode in (("png", "RGBA"), ("webp", "RGBA"), ("jpeg", "RGB")):
        path = tmp_path / f"a{output(format).suffix}"
        save_result(picture, path, photo, output(format))
        with Image.open(path) as back:
            assert back.mode == mode
            if mode == "RGB":
                assert min(back.getpixel((0, 0))) > 245  # type: ignore[type-var, arg-type]


def test_a_better_quality_is_closer_and_longer(tmp_path: Path) -> None:
    noise = Image.effect_noise((128, 128), 60).convert("RGB")
    for format in ("jpeg", "webp"):
        sizes, errors = [], []
        for quality in (10, 95):
            path = tmp_path / f"{quality}{output(format).suffix}"
            save_result(noise, path, Photo(Path("a"), noise), output(format, quality=quality))
            sizes.append(path.stat().st_size)
            errors.append(np.abs(np.asarray(Image.open(path)).astype(int) - np.asarray(noise)).mean())
        assert sizes[0] < sizes[1]
        assert errors[0] > errors[1]


def test_exif_data_that_a_jpeg_has_no_room_for_are_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[Base.ImageDescription] = "x" * 70_000
    SMOOTH.save(tmp_path / "a.png", exif=exif)
    photo = read_photo(tmp_path / "a.png")
    save_result(photo.picture, tmp_path / "b.jpg", photo, output("jpeg"), {"long": "y" * 70_000})
    assert read_metadata(tmp_path / "b.jpg") == {}
    save_result(photo.picture, tmp_path / "b.webp", photo, output("webp"), {"long": "y" * 70_000})
    assert len(read_metadata(tmp_path / "b.webp")["long"]) == 70_000


def test_tags_that_describe_a_tiff_files_pixels_stay_there(tmp_path: Path) -> None:
    SMOOTH.save(tmp_path / "a.tiff", compression="tiff_lzw", software="Scanner")
    photo = read_photo(tmp_path / "a.tiff")
    save_result(photo.picture, tmp_path / "b.jpg", photo, output("jpeg"))
    with Image.open(tmp_path / "b.jpg") as back:
        assert back.getexif()[Base.Software] == "Scanner"
        assert not {Base.StripOffsets, Base.Compression, Base.ImageWidth} & set(back.getexif())


def test_damaged_exif_data_are_left_out(tmp_path: Path) -> None:
    SMOOTH.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    photo = read_photo(tmp_path / "a.jpg")
    save_result(photo.picture, tmp_path / "b.jpg", photo, output("jpeg"))
    assert read_photo(tmp_path / "b.jpg").picture.size == SMOOTH.size


def test_a_format_states_its_largest_side() -> None:
    with pytest.raises(PictureError, match="a webp file has at most 16,383 pixels on a side, not 20,000"):
        check_side(output("webp"), (20_000, 100))
    check_side(output("png"), (70_000, 100))
