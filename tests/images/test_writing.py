from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore.errors import ConfigError, OutputError, PictureError
from stylescore.images import Photo, read_metadata, read_photo, resize_to_photo, save_gif, save_png


def photo(size: tuple[int, int] = (30, 20), alpha: Image.Image | None = None) -> Photo:
    return Photo(Path("a.png"), Image.new("RGB", size, "red"), alpha)


def frames(count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", (16, 12), (50 * i, 0, 100)) for i in range(count)]


def test_source_size() -> None:
    back = resize_to_photo(Image.new("RGB", (64, 40), "blue"), photo())
    assert (back.mode, back.size, back.getpixel((9, 9))) == ("RGB", (30, 20), (0, 0, 255))


def test_alpha_is_put_back() -> None:
    alpha = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8))
    back = resize_to_photo(Image.new("RGB", (64, 40), "blue"), photo(alpha=alpha))
    assert (back.mode, back.size) == ("RGBA", (30, 20))
    assert (np.asarray(back)[..., 3] == np.asarray(alpha)).all()


def test_same_size_is_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert (np.asarray(resize_to_photo(Image.fromarray(noise), photo())) == noise).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_png_pixels_round_trip(tmp_path: Path, mode: str) -> None:
    picture = Image.radial_gradient("L").convert(mode)
    save_png(picture, tmp_path / "a.png", {})
    with Image.open(tmp_path / "a.png") as back:
        assert back.mode == mode
        assert (np.asarray(back) == np.asarray(picture)).all()


def test_metadata_round_trip(tmp_path: Path) -> None:
    texts = {"config": '[run]\nseed = 3\nstyle = "süß 絵 🎨"\n', "empty": "", "long": "x" * 3_000_000, "é": "1"}
    save_png(Image.new("RGB", (9, 9)), tmp_path / "a.png", texts)
    read = read_metadata(tmp_path / "a.png")
    assert read == texts
    assert {type(text) for text in read.values()} == {str}


def test_no_metadata(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (9, 9)), tmp_path / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.jpg")
    assert read_metadata(tmp_path / "a.png") == {}
    assert read_metadata(tmp_path / "a.jpg") == {}


def test_metadata_of_no_picture(tmp_path: Path) -> None:
    with pytest.raises(PictureError):
        read_metadata(tmp_path / "none.png")


@pytest.mark.parametrize("key", ["", "k" * 80, "絵", "a\0b", " a", "a\n"])
def test_keys_a_png_cannot_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        save_png(Image.new("RGB", (9, 9)), tmp_path / "a.png", {key: "x"})
    assert repr(key) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
def test_texts_a_png_cannot_store(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="under 'key'"):
        save_png(Image.new("RGB", (9, 9)), tmp_path / "a.png", {"key": text})


def test_old_profile_and_colour_key_do_not_come_back(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png", transparency=(0, 0, 0), icc_profile=b"garbage")
    save_png(read_photo(tmp_path / "a.png").picture, tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as back:
        assert not {"transparency", "icc_profile"} & set(back.info)


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        save_png(photo().picture, tmp_path / "a.png")
    with pytest.raises(OutputError, match="No space left"):
        save_gif(frames(), tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_png(photo().picture, tmp_path / "file" / "a.png")


def test_gif(tmp_path: Path) -> None:
    save_gif(frames(), tmp_path / "a.gif", 60)
    with Image.open(tmp_path / "a.gif") as film:
        assert (getattr(film, "n_frames", 1), film.info["loop"]) == (5, 0)
        for index in range(5):
            film.seek(index)
            colour = np.asarray(film.convert("RGB"))
            assert film.info["duration"] == (2000 if index == 4 else 60)
            assert np.abs(colour.astype(int) - (50 * index, 0, 100)).max() <= 12


def local_palettes(data: bytes) -> int:
    """Count the frames of a GIF that carry a colour table of their own."""
    place, count = 13 + 3 * 2 ** ((data[10] & 7) + 1), 0
    while data[place] != 0x3B:
        if data[place] == 0x21:
            place += 2
        else:
            flags = data[place + 9]
            count += flags >> 7
            place += 11 + (flags >> 7) * 3 * 2 ** ((flags & 7) + 1)
        while data[place]:
            place += data[place] + 1
        place += 1
    return count


def test_gif_frames_share_one_palette(tmp_path: Path) -> None:
    ramps = [Image.linear_gradient("L").rotate(10 * i).convert("RGB") for i in range(20)]
    save_gif(ramps, tmp_path / "a.gif")
    assert local_palettes((tmp_path / "a.gif").read_bytes()) == 0


def test_gif_of_one_frame(tmp_path: Path) -> None:
    save_gif(frames(1), tmp_path / "a.gif")
    assert read_photo(tmp_path / "a.gif").notes == ()


def test_gif_needs_frames_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="at least one frame"):
        save_gif([], tmp_path / "a.gif")
    with pytest.raises(PictureError, match=r"\(9, 9\), \(16, 12\)"):
        save_gif([*frames(), Image.new("RGB", (9, 9))], tmp_path / "a.gif")


@pytest.mark.parametrize("milliseconds", [0, 19, -5, 60_001])
def test_gif_time(tmp_path: Path, milliseconds: int) -> None:
    with pytest.raises(ConfigError, match=str(milliseconds)):
        save_gif(frames(), tmp_path / "a.gif", milliseconds)
