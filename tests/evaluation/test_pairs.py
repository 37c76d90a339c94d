"""Pairing by records and names, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stylescore.errors import PictureError
from stylescore.evaluation.pairs import Result, list_pictures, list_results, make_pairs


def results(*names: str) -> list[Result]:
    return [Result(Path(f"{name}.png"), name) for name in names]


def photos(*names: str) -> list[Path]:
    return [Path(f"{name}.jpg") for name in names]


def matched(*names: str, among: tuple[str, ...] = ("cat", "cat-2", "dog.day")) -> list[str]:
    return [pair.name for pair in make_pairs(photos(*among), results(*names)).pairs]


def test_names_are_equal_or_begin_with_the_photos_name_and_a_mark() -> None:
    assert matched("cat", "dog.day") == ["cat", "dog.day"]
    assert matched("cat-oil", "cat_oil", "cat oil", "cat.oil") == ["cat"] * 4
    with pytest.raises(PictureError, match="no result belongs to a photo: 'cats' against 'cat'"):
        matched("cats")


def test_the_longest_name_wins() -> None:
    assert matched("cat-2-oil") == ["cat-2"]
    assert matched("cat-20") == ["cat"]


def test_what_is_in_no_pair_is_listed() -> None:
    found = make_pairs(photos("a", "b", "c"), results("b-oil", "x", "y"))
    assert (found.without_result, found.without_photo) == (("a", "c"), ("x", "y"))
    assert found.describe() == ["2 photos without a result: 'a', 'c'", "2 results without a photo: 'x', 'y'"]


def test_long_lists_are_cut() -> None:
    names = [f"n{n}" for n in range(9)]
    (line,) = make_pairs(photos("a", *names), results("a")).describe()
    assert line == "9 photos without a result: 'n0', 'n1', 'n2', 'n3', 'n4' and 4 more"


def test_two_photos_of_one_name_are_refused() -> None:
    with pytest.raises(PictureError, match=r"two photos have the name 'a': 'a\.jpg' and 'a\.png'"):
        make_pairs([Path("a.jpg"), Path("a.png")], results("a"))


def test_run_folders_name_their_photo(tmp_path: Path) -> None:
    """Also one whose folder was renamed; an unfinished run has no picture, and other folders are no runs."""
    for folder, photo in (("renamed", "/there/cat.jpg"), ("deep/dog-oil", "dog.png"), ("cat-x", "lost.jpg")):
        path = tmp_path / folder
        path.mkdir(parents=True)
        (path / "config.toml").write_text(f'command = "stylize"\nphoto = "{photo}"\n', encoding="utf-8")
        Image.new("RGB", (9, 9)).save(path / "picture.png")
        Image.new("RGB", (9, 9)).save(path / "before-after.png")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.toml").write_text('photo = "cat.jpg"', encoding="utf-8")
    found = make_pairs(photos("cat", "dog"), list_results(tmp_path))
    assert [(pair.name, pair.stylized.parent.name) for pair in found.pairs] == [("cat", "renamed"), ("dog", "dog-oil")]
    assert found.without_photo == ("cat-x",)


def test_a_record_that_cannot_be_read_leaves_the_folders_name(tmp_path: Path) -> None:
    path = tmp_path / "cat-oil"
    path.mkdir()
    (path / "config.toml").write_bytes(b"\xff[")
    Image.new("RGB", (9, 9)).save(path / "picture.png")
    assert [pair.name for pair in make_pairs(photos("cat"), list_results(tmp_path)).pairs] == ["cat"]


def test_folders_are_listed_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_pictures(tmp_path)] == ["a.JPG", "b.png"]
    assert list_pictures(tmp_path / "b.png") == [tmp_path / "b.png"]
    with pytest.raises(PictureError, match="there is no folder"):
        list_pictures(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="there are no pictures in"):
        list_results(tmp_path / "empty")
