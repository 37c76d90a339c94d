"""Photos as people name them: folders, patterns, lists, captions beside them, those made before, and broken ones."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from stylescore.images import read_metadata

Stylize = Callable[..., Any]


@pytest.fixture
def album(tmp_path: Path, photo: Path) -> Path:
    """Return a folder with two photos, and one more in a folder in it."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "deep/c.png")):
        with Image.open(photo) as picture:
            picture.rotate(90 * number).save(folder / name)
    return folder


def names(outcome: Any) -> list[str]:
    return [path.parent.name.removesuffix("-style_lora_kohya") for path in outcome.paths]


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def caption_of(picture: Path) -> str:
    return tomllib.loads((picture.parent / "config.toml").read_text("utf-8"))["run"].get("caption", "")


class TestNames:
    def test_a_folder_with_and_without_those_in_it(self, stylize: Stylize, album: Path, out: Path) -> None:
        assert names(stylize(album)) == ["a", "b"]
        outcome = stylize(album, "--recursive")
        assert names(outcome) == ["a", "b", "c"]
        assert outcome.paths[2].parent.parent == out / "deep"
        assert outcome.err.count("finished before") == 0  # the fixture is quiet

    def test_a_quoted_pattern_and_a_list(self, stylize: Stylize, album: Path, tmp_path: Path) -> None:
        assert names(stylize(album / "[ab].png")) == ["a", "b"]
        (tmp_path / "list.txt").write_text("# mine\nalbum/b.png\n\nalbum/deep/c.png\n", encoding="utf-8")
        assert names(stylize("--list", tmp_path / "list.txt")) == ["b", "c"]

    def test_a_file_with_the_letters_of_a_pattern_is_a_file(self, stylize: Stylize, album: Path) -> None:
        shutil.copy(album / "a.png", album / "[ab].png")
        assert names(stylize(album / "[ab].png")) == ["[ab]"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing-*.png"], "no picture fits 'nothing-*.png'"),
            (["--list", "missing.txt"], "the list 'missing.txt' cannot be read"),
            (["{album}", "--name", "{x}"], "--name must only use"),
            (["{album}", "--name", "a/b"], "--name must be a name without slashes"),
            (["{album}", "--quality", "5"], "--quality needs --format jpeg or webp"),
            (["{album}", "--format", "bmp"], "format must be one of"),
            (["{album}", "--mask", "missing.png"], "there is no file 'missing.png'"),
            (["{album}", "--workers", "spark"], "--workers must be"),
            (["{album}", "--caption-model", "x"], "--caption-model needs --caption auto"),
        ],
    )
    def test_what_cannot_be_used(
        self, stylize: Stylize, album: Path, out: Path, arguments: list[str], message: str
    ) -> None:
        outcome = stylize(*(each.format(album=album) if each != "{x}" else each for each in arguments))
        assert outcome.code == 2
        assert outcome.complaint[0].startswith(message)
        assert not out.exists() or not any(out.iterdir())

    def test_a_name_of_ones_own(self, stylize: Stylize, album: Path) -> None:
        outcome = stylize(album / "a.png", "--name", "{folder}-{photo}-{seed}")
        assert outcome.picture.parent.name == "album-a-0"


class TestCaptions:
    def test_files_beside_the_photos_and_tables(self, stylize: Stylize, album: Path) -> None:
        (album / "a.txt").write_text("a cup\n", encoding="utf-8")
        (album / "captions.csv").write_text("file,caption\n./a.png,lost\n./b.png,a plate\n", encoding="utf-8")
        assert [caption_of(path) for path in stylize(album).paths] == ["a cup", "a plate"]
        assert [caption_of(path) for path in stylize(album, "--caption", "none").paths] == ["", ""]
        assert [caption_of(path) for path in stylize(album, "--prompt", "x").paths] == ["x", "x"]

    def test_a_line_says_that_there_is_no_model_for_automatic_ones(self, stylize: Stylize, album: Path) -> None:
        outcome = stylize(album / "a.png", "--caption", "auto", quiet=False)
        assert outcome.code == 0
        assert "note: no automatic captions: " in outcome.err


class TestAgain:
    def test_finished_photos_are_left_until_they_are_to_be_made_again(self, stylize: Stylize, album: Path) -> None:
        first = stylize(album / "a.png").picture
        before = first.stat().st_mtime_ns
        again = stylize(album, quiet=False)
        assert again.paths[0] == first
        assert first.stat().st_mtime_ns == before
        assert f"{album / 'a.png'}: finished before; --overwrite makes it again" in again.err
        assert stylize(album / "a.png", "--overwrite").picture == first
        assert first.stat().st_mtime_ns > before

    def test_other_settings_get_a_folder_of_their_own(self, stylize: Stylize, album: Path) -> None:
        first = stylize(album / "a.png").picture
        other = stylize(album / "a.png", "--seed", "1").picture
        assert other.parent.name == f"{first.parent.name}-2"

    def test_a_changed_photo_is_made_again(self, stylize: Stylize, album: Path) -> None:
        first = stylize(album / "a.png").picture
        shutil.copy(album / "b.png", album / "a.png")
        assert stylize(album / "a.png").picture != first

    def test_a_broken_photo_is_reported_at_the_end(self, stylize: Stylize, album: Path) -> None:
        (album / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        outcome = stylize(album)
        assert outcome.code == 1
        assert names(outcome) == ["b"]
        assert f"not made: {album / 'a.png'}: " in outcome.err
        document = json.loads(stylize(album, "--json").out)["pictures"]
        assert [row["status"] for row in document] == ["failed", "finished before"]
        assert document[0]["hint"]

    def test_a_broken_photo_alone_is_an_error(self, stylize: Stylize, album: Path) -> None:
        (album / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        assert stylize(album / "a.png").code == 2

    def test_a_photo_that_moved(self, stylize: Stylize, program: Callable[..., Any], album: Path) -> None:
        folder = stylize(album / "a.png").picture.parent
        (folder / "picture.png").unlink()
        moved = album / "deep" / "moved.png"
        (album / "a.png").rename(moved)
        assert program("stylize", "--resume", folder, "--quiet").code == 2
        assert "began with" in program("stylize", "--resume", folder, album / "b.png", "--quiet").err
        assert program("stylize", "--resume", folder, moved, "--quiet").code == 0
        assert (folder / "picture.png").is_file()


class TestFormats:
    @pytest.fixture
    def phone(self, tmp_path: Path, photo: Path) -> Path:
        """Return a photo that lies on its side, with a place and a colour profile."""
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif[ExifTags.Base.Make] = "Maker"
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        path = tmp_path / "phone.jpg"
        with Image.open(photo) as picture:
            picture.convert("RGB").crop((0, 0, 128, 96)).save(path, exif=exif, icc_profile=profile)
        return path

    @pytest.mark.parametrize(("format", "ending"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp")])
    def test_what_the_file_says_of_the_photo(self, stylize: Stylize, phone: Path, format: str, ending: str) -> None:
        outcome = stylize(phone, "--format", format)
        assert outcome.picture.name == f"picture.{ending}"
        with Image.open(outcome.picture) as picture:
            exif = picture.getexif()
            assert picture.size == (96, 128)
            assert exif[ExifTags.Base.Make] == "Maker"
            assert exif.get(ExifTags.Base.Orientation, 1) == 1
            assert not exif.get_ifd(ExifTags.IFD.GPSInfo)
            assert picture.info["icc_profile"]
        assert "stylescore" in read_metadata(outcome.picture)

    def test_the_place_stays_if_it_is_to_be_kept(self, stylize: Stylize, phone: Path) -> None:
        outcome = stylize(phone, "--format", "jpeg", "--keep-location")
        with Image.open(outcome.picture) as picture:
            assert picture.getexif().get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"

    def test_a_lower_quality_is_a_smaller_file(self, stylize: Stylize, phone: Path) -> None:
        sizes = [stylize(phone, "--format", "jpeg", "--quality", q).picture.stat().st_size for q in (95, 20)]
        assert sizes[0] > sizes[1]


class TestMasksAndColours:
    def test_the_photo_stays_where_the_mask_is_black(self, stylize: Stylize, album: Path, tmp_path: Path) -> None:
        mask = Image.new("L", (128, 128), 0)
        mask.paste(255, (64, 0, 128, 128))
        mask.save(tmp_path / "mask.png")
        arguments = ("--mask", tmp_path / "mask.png", "--mask-feather", "0")
        picture = pixels(stylize(album / "a.png", *arguments).picture).astype(int)
        photo = pixels(album / "a.png")[..., :3].astype(int)
        assert np.array_equal(picture[:, :64], photo[:, :64])
        assert np.abs(picture[:, 64:] - photo[:, 64:]).mean() > 2

    def test_a_mask_for_each_photo(self, stylize: Stylize, album: Path, tmp_path: Path) -> None:
        masks = tmp_path / "masks"
        masks.mkdir()
        for name, value in (("a", 0), ("b", 255)):
            Image.new("L", (128, 128), value).save(masks / f"{name}.png")
        kept, made = (pixels(path).astype(int) for path in stylize(album, "--mask", masks).paths)
        assert np.array_equal(kept, pixels(album / "a.png")[..., :3])
        assert np.abs(made - pixels(album / "b.png")[..., :3]).mean() > 2

    def test_a_mask_of_another_shape(self, stylize: Stylize, album: Path, tmp_path: Path) -> None:
        Image.new("L", (128, 64), 255).save(tmp_path / "mask.png")
        outcome = stylize(album / "a.png", "--mask", tmp_path / "mask.png")
        assert outcome.code == 2
        assert "mask" in outcome.err

    def test_the_photos_colours(self, stylize: Stylize, album: Path) -> None:
        plain = pixels(stylize(album / "a.png").picture).astype(float)
        kept = pixels(stylize(album / "a.png", "--keep-colours", "1").picture).astype(float)
        photo = pixels(album / "a.png")[..., :3].astype(float)

        def chroma(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.asarray(picture - picture.mean(-1, keepdims=True))

        assert np.abs(chroma(kept) - chroma(photo)).mean() < np.abs(chroma(plain) - chroma(photo)).mean()


class TestRay:
    def test_two_workers_make_the_same_pictures(self, stylize: Stylize, album: Path, tmp_path: Path) -> None:
        pytest.importorskip("ray", reason="Ray is an extra, and not installed")
        here = [pixels(path) for path in stylize(album).paths]
        there = stylize(album, "--workers", "ray:2", "--output", tmp_path / "there")
        assert there.code == 0, there.err
        assert sorted(names(there)) == ["a", "b"]
        for path, expected in zip(sorted(there.paths), here, strict=True):
            assert np.array_equal(pixels(path), expected)
