"""Colours under full transparency: nobody sees them, so nothing may depend on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stylescore.images import Photo, finish, read_photo, to_tensor
from stylescore_apply.images.alpha import fill_hidden

SHAPES = [(40, 60), (61, 37), (300, 500)]


def cut_out(height: int, width: int, seed: int) -> Image.Image:
    """Return a disc of one picture, with noise of this seed hidden around it."""
    rows, columns = np.indices((height, width))
    shown = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    colours = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    hidden = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    pixels = np.where(shown[..., None], colours, hidden)
    return Image.fromarray(np.dstack([pixels, 255 * shown]).astype(np.uint8))


def read(picture: Image.Image, **options: Any) -> Photo:
    file = io.BytesIO()
    picture.save(file, format="PNG", **options)
    path = Path(f"{id(file)}.png")
    try:
        path.write_bytes(file.getvalue())
        return read_photo(path)
    finally:
        path.unlink()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
def test_two_cut_outs_that_look_alike_are_one_input(shape: tuple[int, int]) -> None:
    one, other = (read(cut_out(*shape, seed)) for seed in (1, 2))
    assert not np.array_equal(np.asarray(one.picture), np.asarray(other.picture))
    assert torch.equal(to_tensor(one.visible, (32, 24)), to_tensor(other.visible, (32, 24)))
    made = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
    assert np.array_equal(np.asarray(finish(made, one, 0)), np.asarray(finish(made, other, 0)))


def test_visible_colours_stay_and_hidden_ones_are_those_around_them() -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[:, :20], picture[:, 44:] = (200, 10, 10), (10, 10, 200)
    alpha = np.full((64, 64), 255, dtype=np.uint8)
    alpha[:, 20:44] = 0
    filled = np.asarray(fill_hidden(Image.fromarray(picture), Image.fromarray(alpha)))
    assert (filled[alpha > 0] == picture[alpha > 0]).all()
    assert filled[32, 21].tolist() == [200, 10, 10]
    assert filled[32, 42].tolist() == [10, 10, 200]


def test_one_visible_colour_fills_all() -> None:
    picture = Image.new("RGB", (50, 30), (1, 2, 3))
    picture.paste((90, 120, 150), (10, 10, 14, 14))
    alpha = Image.new("L", picture.size, 0)
    alpha.paste(255, (10, 10, 14, 14))
    assert fill_hidden(picture, alpha).getcolors() == [(1500, (90, 120, 150))]


def test_nothing_visible_is_white_and_nothing_hidden_is_the_picture_itself() -> None:
    picture = Image.new("RGB", (9, 9), "red")
    assert fill_hidden(picture, Image.new("L", (9, 9), 0)).getcolors() == [(81, (255, 255, 255))]
    assert fill_hidden(picture, Image.new("L", (9, 9), 1)) is picture


def test_a_hidden_colour_weighs_nothing_beside_a_faint_one() -> None:
    """A pixel that is nearly transparent is still seen: only alpha 0 is replaced, by the faint pixel's colour."""
    picture = Image.new("RGB", (8, 8), (0, 255, 0))
    picture.putpixel((0, 0), (100, 50, 25))
    alpha = Image.new("L", (8, 8), 0)
    alpha.putpixel((0, 0), 255)
    alpha.putpixel((1, 0), 3)
    filled = fill_hidden(picture, alpha)
    assert filled.getpixel((1, 0)) == (0, 255, 0)
    assert filled.getpixel((0, 7))[0] > 90  # type: ignore[index]
