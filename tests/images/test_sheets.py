from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from stylescore.errors import ConfigError, PictureError
from stylescore.images import before_after, contact_sheet

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def test_before_after_of_a_large_photo_is_made_for_a_screen() -> None:
    sheet = before_after(Image.new("RGB", (3000, 4096), RED), Image.new("RGB", (3000, 4096), BLUE))
    assert sheet.height == 1280
    assert 1874 < sheet.width < 1900


def test_before_after_has_equal_height_and_a_gap() -> None:
    sheet = before_after(Image.new("RGB", (300, 200), RED), Image.new("RGB", (100, 100), BLUE))
    assert sheet.size == (300 + 2 + 200, 200)
    assert [sheet.getpixel((x, 199)) for x in (299, 300, 301, 302, 501)] == [RED, WHITE, WHITE, BLUE, BLUE]


def test_transparency_shows_white_paper() -> None:
    sheet = before_after(Image.new("RGBA", (10, 10), (0, 0, 0, 0)), Image.new("L", (10, 10), 0))
    assert sheet.getpixel((0, 0)) == WHITE
    assert sheet.getpixel((20, 0)) == (0, 0, 0)


def test_contact_sheet_places_pictures_in_cells() -> None:
    rows = [[Image.new("RGB", (50, 50), RED), Image.new("RGB", (100, 50), BLUE)], [Image.new("RGB", (5, 5), BLUE)]]
    sheet = contact_sheet(rows, cell=40)
    assert sheet.size == (2 * 48 + 8, 2 * 48 + 8)
    assert sheet.getpixel((8, 8)) == RED
    assert [sheet.getpixel((76, y)) for y in (17, 18, 37, 38)] == [WHITE, BLUE, BLUE, WHITE]
    assert sheet.getpixel((28, 76)) == BLUE
    assert sheet.getpixel((76, 76)) == WHITE


def test_a_row_is_as_high_as_its_highest_picture() -> None:
    flat, tall = Image.new("RGB", (80, 20), BLUE), Image.new("RGB", (20, 20), RED)
    sheet = contact_sheet([[flat, flat], [flat, tall]], cell=40)
    assert sheet.size == (2 * 48 + 8, 10 + 40 + 3 * 8)
    assert [sheet.getpixel((8, y)) for y in (7, 8, 17, 18)] == [WHITE, BLUE, BLUE, WHITE]
    assert sheet.getpixel((8, 26 + 20)) == BLUE
    assert sheet.getpixel((56, 26)) == RED


def test_labels_are_written_above_their_columns() -> None:
    pictures = [Image.new("RGB", (40, 40), RED)] * 2
    plain, labelled = contact_sheet([pictures], cell=40), contact_sheet([pictures], ["photo", "ärger"], cell=40)
    head = labelled.height - plain.height
    top = np.asarray(labelled)[:head]
    assert top[:, 8:48].min() < 100
    assert top[:, 56:96].min() < 100
    assert (np.asarray(labelled)[head + 8 :] == np.asarray(plain)[8:]).all()


def test_wrong_calls() -> None:
    picture = Image.new("RGB", (9, 9))
    with pytest.raises(PictureError, match="at least one"):
        contact_sheet([[]])
    with pytest.raises(ConfigError, match=r"2 columns, got \['a'\]"):
        contact_sheet([[picture, picture]], ["a"])
    with pytest.raises(ConfigError, match="got 0"):
        contact_sheet([[picture]], cell=0)
