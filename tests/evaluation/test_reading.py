"""Sizes at which pictures are compared, transparency, and batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stylescore.errors import PictureError
from stylescore.evaluation.pairs import Pair
from stylescore.evaluation.reading import comparison_size, in_batches, read_source, read_style, read_stylized


def save(folder: Path, name: str, size: tuple[int, int], mode: str = "RGB", colour: object = "red") -> Path:
    Image.new(mode, size, colour).save(folder / name)  # type: ignore[arg-type]
    return folder / name


def test_large_pictures_are_reduced_and_small_ones_left() -> None:
    assert comparison_size((1024, 2048), 512) == (512, 1024)
    assert comparison_size((300, 200), 512) == (300, 200)
    assert comparison_size((3000, 2000), 0) == (3000, 2000)


def test_a_pair_gets_the_size_of_the_result(tmp_path: Path) -> None:
    pair = Pair("a", save(tmp_path, "a.png", (400, 300)), save(tmp_path, "b.png", (161, 120)))
    result = read_stylized(pair, 512)
    assert result.size == (161, 120)
    assert read_source(result).shape == result.picture.shape == (1, 3, 120, 161)
    assert read_source(read_stylized(pair, 60)).shape == (1, 3, 60, 80)


def test_a_cropped_result_is_refused(tmp_path: Path) -> None:
    pair = Pair("a", save(tmp_path, "a.png", (400, 300)), save(tmp_path, "b.png", (300, 300)))
    with pytest.raises(PictureError, match=r"'b\.png' is 300 x 300 and its photo 'a\.png' 400 x 300"):
        read_source(read_stylized(pair, 512))


def test_transparency_is_white(tmp_path: Path) -> None:
    hidden = read_style(save(tmp_path, "a.png", (20, 20), "RGBA", (255, 0, 0, 0)), 512)
    assert bool((hidden == 1).all())


def test_neighbours_of_one_size_share_a_batch_and_the_order_stays() -> None:
    sides = [8, 8, 8, 9, 8]
    batches = list(in_batches(enumerate(sides), 2, key=lambda entry: entry[1]))
    assert batches == [[(0, 8), (1, 8)], [(2, 8)], [(3, 9)], [(4, 8)]]
