from __future__ import annotations

import io
import struct
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from PIL.PngImagePlugin import PngInfo
from tests.images.profiles import LINEAR, black_ink_only, linear_rgb, profile

from stylescore.errors import PictureError
from stylescore.images import Photo, read_photo

Pixels = NDArray[np.uint8]


def noise(width: int = 16, height: int = 12, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(picture: Image.Image, path: Path, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def pixels(picture: Image.Image | None) -> Pixels:
    assert picture is not None
    return np.asarray(picture)


def png(path: Path, width: int, height: int, depth: int, colour: int, data: bytes, extra: bytes = b"") -> Path:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows16(values: NDArray[np.int64]) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


# Ordinary kinds -----------------------------------------------------------------------------------------------


def test_plain_png(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")
    photo = read_photo(path)
    assert isinstance(photo, Photo)
    assert (photo.path, photo.alpha, photo.notes) == (path, None, ())
    assert photo.picture.mode == "RGB"
    assert (pixels(photo.picture) == noise()).all()


def test_path_may_be_text_and_the_name_may_lie(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "ä b.jpg", format="PNG")
    assert (pixels(read_photo(str(tmp_path / "ä b.jpg")).picture) == noise()).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tiff", "bmp", "ppm", "jp2", "avif"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    smooth = Image.linear_gradient("L").convert("RGB")
    photo = read_photo(saved(smooth, tmp_path / f"a.{suffix}"))
    difference = pixels(photo.picture).astype(int) - pixels(smooth)
    assert np.abs(difference).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_every_orientation_is_pixel_exact(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = noise(16, 12, 4)
    # What a camera held in that way stores, by the EXIF table of row and column.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored))
    photo = read_photo(saved(picture, tmp_path / f"a.{suffix}", exif=exif))
    assert (pixels(photo.picture) == upright[..., :3]).all()
    assert (pixels(photo.alpha) == upright[..., 3]).all()


def test_jpeg_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(saved(Image.new("RGB", (20, 10)), tmp_path / "a.jpg", exif=exif))
    assert photo.picture.size == (10, 20)
    assert not photo.picture.getexif()


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_meaningless_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(noise()), tmp_path / "a.png", exif=exif)
    assert (pixels(read_photo(path).picture) == noise()).all()


@pytest.mark.parametrize("data", [b"garbage", b"II*\0\x08\0\0\0\x05\0\x12\x01", b"MM\0*\xff\xff\xff\xff", b"II"])
def test_broken_exif_does_not_lose_the_photo(tmp_path: Path, data: bytes) -> None:
    path = saved(Image.new("RGB", (20, 10)), tmp_path / "a.jpg", exif=b"Exif\0\0" + data)
    assert read_photo(path).picture.size == (20, 10)


def test_exif_that_pil_fails_on_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png")

    def fail(self: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.getexif", fail)
    photo = read_photo(path)
    assert (pixels(photo.picture) == noise()).all()
    assert photo.notes == ("the EXIF data is unreadable and was ignored",)


# Transparency -------------------------------------------------------------------------------------------------


def test_rgba(tmp_path: Path) -> None:
    photo = read_photo(saved(Image.fromarray(noise(channels=4)), tmp_path / "a.png"))
    assert (pixels(photo.picture) == noise(channels=4)[..., :3]).all()
    assert (pixels(photo.alpha) == noise(channels=4)[..., 3]).all()


def test_grey_with_alpha(tmp_path: Path) -> None:
    both = noise(channels=2)
    picture = Image.merge("LA", [Image.fromarray(both[..., i]) for i in (0, 1)])
    photo = read_photo(saved(picture, tmp_path / "a.png"))
    assert (pixels(photo.picture) == both[..., :1]).all()
    assert (pixels(photo.alpha) == both[..., 1]).all()


def palette_picture() -> Image.Image:
    picture = Image.new("P", (10, 10), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.paste(0, (0, 0, 5, 10))
    return picture


def test_palette(tmp_path: Path) -> None:
    photo = read_photo(saved(palette_picture(), tmp_path / "a.png"))
    assert photo.alpha is None
    assert [photo.picture.getpixel((x, 0)) for x in (0, 9)] == [(255, 0, 0), (0, 255, 0)]


@pytest.mark.parametrize(("transparency", "alpha"), [(0, [0, 255]), (b"\x40\x80", [64, 128])])
def test_palette_with_transparency(tmp_path: Path, transparency: int | bytes, alpha: list[int]) -> None:
    photo = read_photo(saved(palette_picture(), tmp_path / "a.png", transparency=transparency))
    assert [photo.picture.getpixel((x, 0)) for x in (0, 9)] == [(255, 0, 0), (0, 255, 0)]
    assert [int(pixels(photo.alpha)[0, x]) for x in (0, 9)] == alpha


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_colour_key(tmp_path: Path, mode: str, key: int | tuple[int, ...]) -> None:
    picture = Image.new(mode, (10, 10), 0)
    picture.paste(key, (0, 0, 5, 10))
    photo = read_photo(saved(picture, tmp_path / "a.png", transparency=key))
    assert [int(pixels(photo.alpha)[0, x]) for x in (0, 9)] == [0, 255]
    assert not photo.picture.has_transparency_data


def test_colour_key_of_sixteen_bits(tmp_path: Path) -> None:
    values = np.tile(np.arange(10, dtype=np.uint16) * 257, (10, 1))
    photo = read_photo(saved(Image.fromarray(values), tmp_path / "a.png", transparency=3 * 257))
    assert pixels(photo.picture)[0, :, 0].tolist() == list(range(10))
    assert np.flatnonzero(pixels(photo.alpha)[0] == 0).tolist() == [3]


def test_colour_key_of_one_bit(tmp_path: Path) -> None:
    picture = Image.new("1", (10, 10), 0)
    picture.paste(1, (0, 0, 5, 10))
    photo = read_photo(saved(picture, tmp_path / "a.png", transparency=1))
    assert [photo.picture.getpixel((x, 0)) for x in (0, 9)] == [(255, 255, 255), (0, 0, 0)]
    assert [int(pixels(photo.alpha)[0, x]) for x in (0, 9)] == [0, 255]


# Depth --------------------------------------------------------------------------------------------------------


def test_one_bit(tmp_path: Path) -> None:
    checks = np.indices((10, 10)).sum(0) % 2 == 1
    photo = read_photo(saved(Image.fromarray(checks), tmp_path / "a.png"))
    assert (pixels(photo.picture)[..., 0] == checks * 255).all()


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.tile(np.array([0, 128, 129, 257, 1000, 32768, 65407, 65535], dtype=np.uint16), (8, 1))
    expected = [0, 0, 1, 1, 4, 128, 255, 255]
    for suffix in ("png", "tiff"):
        photo = read_photo(saved(Image.fromarray(values), tmp_path / f"a.{suffix}"))
        assert pixels(photo.picture)[0, :, 0].tolist() == expected
        assert photo.notes == ()


def test_sixteen_bit_pgm(tmp_path: Path) -> None:
    values = np.tile(np.array([0, 25700, 65535, 257] * 2, dtype=">u2"), (8, 1))
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + values.tobytes())
    assert pixels(read_photo(tmp_path / "a.pgm").picture)[0, :4, 1].tolist() == [0, 100, 255, 1]


def test_thirty_two_bit_integers_beyond_sixteen_are_stretched_with_a_note(tmp_path: Path) -> None:
    values = np.tile(np.array([-1000, 0, 1000, 1000] * 2, dtype=np.int32), (8, 1))
    photo = read_photo(saved(Image.fromarray(values), tmp_path / "a.tiff"))
    assert pixels(photo.picture)[0, :4, 0].tolist() == [0, 128, 255, 255]
    assert photo.notes == ("values from -1000 to 1000 were scaled to black and white",)


@pytest.mark.parametrize(
    ("values", "expected", "noted"),
    [
        ([0, 0.5, 1, 0.1], [0, 128, 255, 26], False),
        ([0, 0.5, 254.6, 100], [0, 0, 255, 100], False),
        ([0, 500, 1000, 100], [0, 128, 255, 26], True),
        ([0, np.nan, np.inf, 1], [0, 0, 255, 255], False),
        ([-2, -2, -2, -2], [0, 0, 0, 0], True),
        ([np.nan] * 4, [0] * 4, False),
    ],
)
def test_float_tiff(tmp_path: Path, values: list[float], expected: list[int], noted: bool) -> None:
    picture = Image.fromarray(np.tile(np.array(values * 2, dtype=np.float32), (8, 1)))
    photo = read_photo(saved(picture, tmp_path / "a.tiff"))
    assert pixels(photo.picture)[0, :4, 2].tolist() == expected
    assert bool(photo.notes) is noted


def test_sixteen_bit_colour_with_a_key(tmp_path: Path) -> None:
    values = np.zeros((8, 8 * 3), dtype=np.int64)
    values[:, :12] = 0x8000
    key = chunk(b"tRNS", struct.pack(">HHH", *[0x8000] * 3))
    photo = read_photo(png(tmp_path / "a.png", 8, 8, 16, 2, rows16(values), key))
    assert [photo.picture.getpixel((x, 0)) for x in (0, 7)] == [(128,) * 3, (0,) * 3]
    assert pixels(photo.alpha)[0].tolist() == [0] * 4 + [255] * 4


def test_sixteen_bit_colour_with_alpha(tmp_path: Path) -> None:
    values = np.tile(np.array([65535, 0x8080, 0, 0x4040]), (8, 8))
    photo = read_photo(png(tmp_path / "a.png", 8, 8, 16, 6, rows16(values)))
    assert photo.picture.getpixel((3, 3)) == (255, 128, 0)
    assert pixels(photo.alpha)[3, 3] == 64


# Colour spaces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "value"), [("RGB", (55,) * 3), ("RGBA", (55, 55, 55, 9)), ("P", 0)])
def test_embedded_rgb_profile_is_applied(tmp_path: Path, mode: str, value: int | tuple[int, ...]) -> None:
    picture = Image.new(mode, (10, 10), value)
    if mode == "P":
        picture.putpalette([55, 55, 55])
    photo = read_photo(saved(picture, tmp_path / "a.png", icc_profile=linear_rgb()))
    # sRGB's curve takes 55 / 255 of full light to 127.5 / 255 within a unit.
    assert np.abs(pixels(photo.picture).astype(int) - 128).max() <= 1
    assert "icc_profile" not in photo.picture.info
    assert photo.notes == ()


def test_grey_profile_is_applied(tmp_path: Path) -> None:
    grey = profile(b"GRAY", {b"kTRC": LINEAR})
    photo = read_photo(saved(Image.new("L", (10, 10), 55), tmp_path / "a.png", icc_profile=grey))
    assert np.abs(pixels(photo.picture).astype(int) - 128).max() <= 1


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = read_photo(saved(Image.fromarray(noise()), tmp_path / "a.png", icc_profile=srgb))
    assert (pixels(photo.picture) == noise()).all()


@pytest.mark.parametrize("data", [b"garbage", linear_rgb()[:150]])
def test_unreadable_profile_is_ignored_with_a_note(tmp_path: Path, data: bytes) -> None:
    photo = read_photo(saved(Image.fromarray(noise()), tmp_path / "a.png", icc_profile=data))
    assert (pixels(photo.picture) == noise()).all()
    assert photo.notes == ("the embedded colour profile is unreadable and was ignored",)


def test_profile_of_another_space_is_ignored_with_a_note(tmp_path: Path) -> None:
    path = saved(Image.fromarray(noise()), tmp_path / "a.png", icc_profile=black_ink_only())
    photo = read_photo(path)
    assert (pixels(photo.picture) == noise()).all()
    assert photo.notes == ("the embedded colour profile is for CMYK and was ignored",)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_without_profile(tmp_path: Path, suffix: str) -> None:
    photo = read_photo(saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / f"a.{suffix}"))
    assert photo.picture.getpixel((8, 8)) == (0, 255, 255)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 8, 16))
    photo = read_photo(saved(picture, tmp_path / f"a.{suffix}", icc_profile=black_ink_only()))
    cyan, black = photo.picture.getpixel((14, 8)), photo.picture.getpixel((2, 8))
    assert isinstance(cyan, tuple)
    assert isinstance(black, tuple)
    assert min(cyan) > 250
    assert max(black) < 5
    assert photo.notes == ()


def test_lab_tiff(tmp_path: Path) -> None:
    photo = read_photo(saved(Image.new("LAB", (10, 10), (255, 128, 128)), tmp_path / "a.tiff"))
    assert np.asarray(photo.picture).min() > 250


# Several frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animated_uses_the_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (10, 10), (80 * i, 0, 0)) for i in (3, 0, 1)]
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **options)
    photo = read_photo(path)
    assert photo.picture.getpixel((5, 5)) == (240, 0, 0)
    assert photo.notes == ("animated picture: using the first of 3 frames",)


def test_tiff_of_several_pages(tmp_path: Path) -> None:
    page = Image.new("RGB", (10, 10))
    photo = read_photo(saved(page, tmp_path / "a.tiff", save_all=True, append_images=[page]))
    assert photo.notes == ("file with several pictures: using one of 2",)


def test_phone_photo_with_a_second_picture_needs_no_note(tmp_path: Path) -> None:
    page = Image.new("RGB", (10, 10))
    photo = read_photo(saved(page, tmp_path / "a.mpo", save_all=True, append_images=[page]))
    assert photo.notes == ()


# HEIC ---------------------------------------------------------------------------------------------------------


def test_heic_with_the_plugin(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    smooth = Image.linear_gradient("L").convert("RGB")
    photo = read_photo(saved(smooth, tmp_path / "a.heic"))
    assert np.abs(pixels(photo.picture).astype(int) - pixels(smooth)).max() < 12


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "renamed.jpg"])
def test_heic_without_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    with pytest.raises(PictureError, match="HEIC") as caught:
        read_photo(tmp_path / name)
    assert "pip install pillow-heif" in (caught.value.hint or "")


# What cannot be read ------------------------------------------------------------------------------------------


def refused(path: Path | str, match: str) -> PictureError:
    with pytest.raises(PictureError, match=match) as caught:
        read_photo(path)
    assert caught.value.hint
    assert repr(str(path)) in str(caught.value)
    return caught.value


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "there is no file")


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "a.jpg", "there is no file")


def test_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")


def test_device() -> None:
    refused("/dev/zero", "device or pipe")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_impossible_path(name: str) -> None:
    refused(name, "not a usable path")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    refused(tmp_path / "a.jpg", "empty")


def test_text_named_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("this is no picture\n" * 20)
    refused(tmp_path / "a.jpg", "not a picture")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(Image.fromarray(noise(64, 64)), tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "damaged|not a picture")


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_too_small(tmp_path: Path, size: tuple[int, int]) -> None:
    refused(saved(Image.new("RGB", size), tmp_path / "a.png"), f"{size[0]} x {size[1]} pixels; .* at least 8")


@pytest.mark.parametrize("side", [60_000, 13_000, 12_300])
def test_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    refused(png(tmp_path / "a.png", side, side, 8, 2, b""), "150,000,000")


def test_large_picture_within_the_limit_is_not_a_bomb(tmp_path: Path) -> None:
    refused(png(tmp_path / "a.png", 12_000, 9_000, 1, 0, b""), "damaged")


def test_callers_own_lower_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(Image.new("RGB", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused(path, "too many pixels")


@pytest.mark.parametrize(
    "error", [struct.error("x"), SyntaxError("x"), ValueError(), OSError("x"), KeyError(3), MemoryError()]
)
def test_odd_errors_inside_pil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = saved(Image.new("RGB", (10, 10)), tmp_path / "a.png")

    def fail(self: Image.Image) -> None:
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert refused(path, "damaged").__cause__ is error


@pytest.mark.parametrize("place", ["pathlib.Path.stat", "PIL.Image.open"])
def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = saved(Image.new("RGB", (10, 10)), tmp_path / "a.png")

    def deny(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place, deny)
    refused(path, "may not be read")


def test_postscript_is_never_run(tmp_path: Path) -> None:
    refused(saved(Image.new("RGB", (10, 10)), tmp_path / "a.eps"), "not a picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_headers_never_raise_other_errors(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 24)).save(buffer, kind)
    for _ in range(40):
        data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
        data[rng.integers(0, min(len(data), 200), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "a").write_bytes(data.tobytes())
        with suppress(PictureError):
            assert read_photo(tmp_path / "a").picture.mode == "RGB"


def test_long_texts_and_profiles_do_not_make_a_sound_picture_damaged(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("workflow", "node " * 600_000, zip=True)
    texts.add_itxt("prompt", "wörter " * 400_000, zip=True)
    texts.add_text("plain", "x" * 2_000_000)
    profile = linear_rgb() + bytes(3_000_000)
    Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / "a.png", pnginfo=texts, icc_profile=profile)
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert read_photo(tmp_path / "a.png").picture.size == (16, 16)
    assert before == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


@pytest.mark.parametrize(("name", "tags"), [("a.tif", {50706: b"\1\4\0\0"}), ("a.NEF", {}), ("a.arw", {})])
def test_the_thumbnail_of_a_raw_file_is_not_taken_for_the_photo(
    tmp_path: Path, name: str, tags: dict[int, bytes]
) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / name, format="TIFF", tiffinfo=tags)
    with pytest.raises(PictureError, match="is a camera's raw file, not a picture") as caught:
        read_photo(tmp_path / name)
    assert "JPEG or TIFF" in str(caught.value.hint)
