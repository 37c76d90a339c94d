"""Captions where programs keep them: beside the pictures, in tables of their folders, in kohya's metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from stylescore.errors import ConfigError
from stylescore.images.captions import TABLES, Captions, CaptionSource, read_captions


def make(folder: Path, *names: str) -> list[Path]:
    """Return new pictures, in subfolders where their names say so."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return [folder / name for name in names]


def read(folder: Path, pictures: list[Path]) -> Captions:
    return read_captions(pictures, folder=folder)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_the_folder_is_found(tmp_path: Path, name: str) -> None:
    pictures = make(tmp_path, "a.png", "b.png")
    contents = {
        ".csv": 'file_name,text\na.png,"one, two"\n',
        ".tsv": "file_name\ttext\na.png\tone, two\n",
        ".jsonl": '{"file_name": "a.png", "text": "one, two"}\n',
        ".json": '{"a": {"caption": "one", "tags": "two"}}',
    }
    (tmp_path / name).write_text(contents[Path(name).suffix], encoding="utf-8")
    found = read(tmp_path, pictures)
    assert list(found.texts.values()) == ["one, two", ""]
    assert found.summary.startswith(f"captions: 1 from {name}; none for 1 of 2 pictures")


def test_a_file_beside_the_picture_wins_and_the_line_counts_both(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("beside", encoding="utf-8")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,table\nb.png,table\n", encoding="utf-8")
    found = read(tmp_path, pictures)
    assert list(found.texts.values()) == ["beside", "table", ""]
    assert found.summary == "captions: 1 from .txt files, 1 from metadata.csv; none for 1 of 3 pictures"


def test_an_empty_file_leaves_the_caption_to_the_table(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,table\n", encoding="utf-8")
    assert list(read(tmp_path, pictures).texts.values()) == ["table"]


def test_where_two_files_are_beside_a_picture_the_line_says_which_is_used(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("tags", encoding="utf-8")
    (tmp_path / "a.caption").write_text("sentence", encoding="utf-8")
    found = read(tmp_path, pictures)
    assert list(found.texts.values()) == ["tags"]
    assert found.summary == "captions: 1 from .txt files; a.txt is used, not a.caption"


def test_no_caption_is_said(tmp_path: Path) -> None:
    assert read(tmp_path, make(tmp_path, "a.png")).summary == "captions: none found"


def test_tables_of_nested_folders_and_of_the_folder_above_are_read(tmp_path: Path) -> None:
    pictures = make(tmp_path, "10_ink/a.png", "10_ink/b.png", "5_oil/a.png", "c.png")
    rows = [{"file_name": "10_ink/a.png", "text": "above"}, {"file_name": "5_oil/a.png", "text": "oil"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "10_ink" / "captions.csv").write_text("file,caption\na.png,near\nb.png,b\n", encoding="utf-8")
    assert list(read(tmp_path, pictures).texts.values()) == ["near", "b", "oil", ""]
    beside = read_captions(pictures[:2])
    assert list(beside.texts.values()) == ["near", "b"]


@pytest.mark.parametrize("spelling", ["/mnt/c/train/{}", "D:\\train\\10_ink\\{}", "elsewhere/{}"])
def test_paths_of_another_machine_are_matched_by_the_name_and_that_is_said(tmp_path: Path, spelling: str) -> None:
    pictures = make(tmp_path, "10_ink/a.png", "b.png")
    table = tmp_path / "captions.csv"
    table.write_text(f"file,caption\n{spelling.format('a.png')},ink\n", encoding="utf-8")
    given = read_captions(pictures, CaptionSource(table=table), folder=tmp_path)
    found = read(tmp_path, pictures)
    for captions in (given, found):
        assert list(captions.texts.values()) == ["ink", ""]
        assert "rows of captions.csv matched by the file's name alone: 1" in captions.summary


def test_a_name_that_two_pictures_have_is_not_matched_without_its_folder(tmp_path: Path) -> None:
    pictures = make(tmp_path, "x/a.png", "y/a.png")
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\na.png,ink\n", encoding="utf-8")
    assert "rows of captions.csv that name no picture here: 1" in read(tmp_path, pictures).summary
    with pytest.raises(ConfigError, match=r"names 'a.png', and several folders have a picture of this name"):
        read_captions(pictures, CaptionSource(table=table), folder=tmp_path)


def test_a_found_table_about_other_things_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("camera,lens\nx,y\n", encoding="utf-8")
    (tmp_path / "metadata.json").write_text("[1, 2]", encoding="utf-8")
    found = read(tmp_path, pictures)
    assert list(found.texts.values()) == [""]
    assert "metadata.csv is not used: needs a column 'file', its first line has camera, lens" in found.summary
    with pytest.raises(ConfigError, match="needs a column 'file'"):
        read_captions(pictures, CaptionSource(table=tmp_path / "metadata.csv"))


def test_a_found_table_that_is_damaged_is_refused(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read: line 1: it is not JSON"):
        read(tmp_path, pictures)


def test_kohyas_metadata_name_pictures_by_paths_without_suffix(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png", "b.png", "c.png")
    content = {"/data/x/a": {"caption": "a cat"}, "b": {"tags": "1girl, hat"}, "c": {"train_resolution": [512, 512]}}
    (tmp_path / "meta_cap.json").write_text(json.dumps(content), encoding="utf-8")
    assert list(read(tmp_path, pictures).texts.values()) == ["a cat", "1girl, hat", ""]


TABLE_TEXTS = {
    "semicolons": "file;caption\na.png;one, two\n",
    "a line that states semicolons": 'sep=;\r\n"file";"caption"\r\na.png;one, two\r\n',
    "tabs": "file\tcaption\na.png\tone, two\n",
    "empty rows": 'file,caption\n\na.png,"one, two"\n,\n',
    "another column": 'image_path,caption\na.png,"one, two"\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", TABLE_TEXTS)
def test_tables_as_spreadsheet_programs_save_them(tmp_path: Path, kind: str, encoding: str) -> None:
    pictures = make(tmp_path, "a.png")
    table = tmp_path / "t.csv"
    table.write_bytes(TABLE_TEXTS[kind].encode(encoding))
    assert list(read_captions(pictures, CaptionSource(table=table)).texts.values()) == ["one, two"]


def test_a_text_of_windows_is_read(tmp_path: Path) -> None:
    pictures = make(tmp_path, "a.png")
    (tmp_path / "a.txt").write_text("Öl, one", encoding="utf-16")
    assert list(read(tmp_path, pictures).texts.values()) == ["Öl, one"]


@pytest.mark.parametrize(("picture", "text"), [("\u00fc.png", "u\u0308"), ("u\u0308.png", "\u00fc")])
def test_composed_and_decomposed_letters_are_the_same(tmp_path: Path, picture: str, text: str) -> None:
    pictures = make(tmp_path, picture)
    (tmp_path / f"{text}.txt").write_text("beside", encoding="utf-8")
    assert list(read(tmp_path, pictures).texts.values()) == ["beside"]
    (tmp_path / f"{text}.txt").unlink()
    (tmp_path / "metadata.csv").write_text(f"file,caption\n{text}.png,table\n", encoding="utf-8")
    assert list(read(tmp_path, pictures).texts.values()) == ["table"]


def test_a_table_of_windows_names_folders_with_its_own_slashes(tmp_path: Path) -> None:
    pictures = make(tmp_path, "x/a.png", "y/a.png", "B.png")
    table = tmp_path / "t.csv"
    table.write_text("file,caption\nx\\a.png,one\ny\\a.png,two\nb.PNG,three\n", encoding="utf-8")
    found = read_captions(pictures, CaptionSource(table=table), folder=tmp_path)
    assert list(found.texts.values()) == ["one", "two", "three"]


@pytest.mark.parametrize(("name", "kind"), [("t.xlsx", "a spreadsheet"), ("t.parquet", "a table of a data set")])
def test_tables_of_other_formats_are_named(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4")
    with pytest.raises(ConfigError, match=f"cannot be read: it is {kind}") as caught:
        read_captions(make(tmp_path, "a.png"), CaptionSource(table=tmp_path / name))
    assert caught.value.hint == "save it as CSV"
