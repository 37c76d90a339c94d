"""Pictures and captions: what is found, what is left out, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from stylescore.errors import ConfigError, PictureError
from stylescore.images.captions import CaptionSource, read_captions
from stylescore.training.cache import Example
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.draws import batch_members, make_generator
from stylescore.training.pictures import list_pictures, load_picture, read_dataset
from stylescore.training.prompts import choose_sheet_captions, make_prompt, remove_trigger


def test_pictures_come_by_name_and_other_files_are_no_concern(pictures: Path) -> None:
    (pictures / "notes.md").write_text("x")
    (pictures / ".hidden.png").write_text("x")
    found = read_dataset(pictures)
    assert [picture.path.name for picture in found.pictures] == ["p0.png", "p1.png", "p2.png", "p3.png"]
    assert found.left_out == ()


def test_what_cannot_be_used_is_named_and_left_out(pictures: Path) -> None:
    (pictures / "bad.jpg").write_text("no picture")
    (pictures / "p4.png").write_bytes((pictures / "p0.png").read_bytes())
    Image.new("RGB", (400, 20)).save(pictures / "strip.png")
    left_out = read_dataset(pictures).left_out
    assert [line.partition(":")[0] for line in left_out] == ["bad.jpg", "strip.png", "p4.png"]
    assert "the same picture as p0.png" in left_out[2]


@pytest.mark.parametrize("name", ["bad.jpg", "again.png", "strip.png"])
def test_strict_refuses_them(pictures: Path, name: str) -> None:
    content = {"bad.jpg": b"no picture", "again.png": (pictures / "p0.png").read_bytes()}
    if name in content:
        (pictures / name).write_bytes(content[name])
    else:
        Image.new("RGB", (400, 20)).save(pictures / name)
    with pytest.raises(PictureError):
        read_dataset(pictures, strict=True)


def test_transparent_pictures_lie_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert load_picture(tmp_path / "clear.png").getpixel((3, 3)) == (255, 255, 255)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(PictureError, match="there are no pictures"):
        list_pictures(tmp_path)


def test_a_folder_is_needed(pictures: Path) -> None:
    with pytest.raises(PictureError, match=r"must be a folder, .* is a file"):
        list_pictures(pictures / "p0.png")
    with pytest.raises(PictureError, match=r"must be a folder, .* does not exist"):
        list_pictures(pictures / "none")


def test_two_pictures_are_too_few(pictures: Path) -> None:
    (pictures / "p0.png").unlink()
    (pictures / "p1.png").write_text("broken")
    with pytest.raises(PictureError, match=r"at least 3 usable pictures, .* has 2; left out: p1.png"):
        read_dataset(pictures)


def files(pictures: Path) -> list[Path]:
    return list_pictures(pictures)


def find_captions(pictures: list[Path], source: CaptionSource, *, strict: bool = False) -> Mapping[Path, str]:
    return read_captions(pictures, source, strict=strict).texts


def test_captions_lie_beside_the_pictures(pictures: Path) -> None:
    (pictures / "p1.txt").write_text("\ufeff two\n lines ", encoding="utf-8")
    (pictures / "p2.png.txt").write_text("by the whole name", encoding="utf-8")
    (pictures / "p3.txt").unlink()
    found = find_captions(files(pictures), CaptionSource())
    assert list(found.values()) == ["disc number 0", "two lines", "by the whole name", ""]
    with pytest.raises(ConfigError, match=r"1 of 4 pictures have no caption, such as 'p3.png'"):
        find_captions(files(pictures), CaptionSource(), strict=True)


def test_one_caption_stands_for_all(pictures: Path) -> None:
    assert set(find_captions(files(pictures), CaptionSource(caption="a disc")).values()) == {"a disc"}


@pytest.mark.parametrize("head", ["file,caption", "file_name,text", "id,Caption,FILE"])
def test_captions_come_from_a_table(pictures: Path, tmp_path: Path, head: str) -> None:
    table, turned = tmp_path / "captions.csv", head.startswith("id")
    rows = [f'7,"one, two",p{n}.png' if turned else f'p{n}.png,"one, two"' for n in range(3)]
    table.write_text("\n".join([head, *rows]), encoding="utf-8")
    found = find_captions(files(pictures), CaptionSource(table=table))
    assert list(found.values()) == ["one, two"] * 3 + [""]


@pytest.mark.parametrize("name", ["p1.TXT", "p1.caption", "p1.png.txt", "p1.Caption", "p1.png.caption"])
def test_a_caption_file_may_have_any_of_the_usual_names(pictures: Path, name: str) -> None:
    (pictures / "p1.txt").unlink()
    (pictures / name).write_text("found", encoding="utf-8")
    assert find_captions(files(pictures), CaptionSource())[pictures / "p1.png"] == "found"


@pytest.mark.parametrize("spelling", ["./{}", "{folder}/{}", "../pics/{}", "pics/{}", "x/../{}"])
def test_a_table_may_name_a_picture_by_any_path(tmp_path: Path, pictures: Path, spelling: str) -> None:
    folder = tmp_path / "pics"
    shutil.copytree(pictures, folder)
    (folder / "x").mkdir()
    table = tmp_path / "captions.csv"
    table.write_text(f"file,caption\n{spelling.format('p0.png', folder=folder)},a disc\n", encoding="utf-8")
    assert find_captions(files(folder), CaptionSource(table=table))[folder / "p0.png"] == "a disc"


def test_two_spellings_of_one_picture_are_the_same_picture(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\np0.png,a\n./p0.png,b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"names './p0.png' twice"):
        find_captions(files(pictures), CaptionSource(table=table))


def test_captions_come_from_json_lines(pictures: Path, tmp_path: Path) -> None:
    table = tmp_path / "metadata.jsonl"
    table.write_text('{"file_name": "p0.png", "text": "one"}\n\n{"file": "p1.png", "caption": "two"}\n', "utf-8")
    assert list(find_captions(files(pictures), CaptionSource(table=table)).values()) == ["one", "two", "", ""]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "{", "cannot be read: line 1: it is not JSON"),
        ("a.jsonl", '{"file": 3, "caption": "x"}', "line 1 needs the texts 'file' and 'caption'"),
        ("a.jsonl", "[" * 5000, "line 1: too many nested brackets"),
        ("a.csv", 'file,caption\np0.png,"' + "x" * 200_000, "field larger than field limit"),
        ("a.csv", f"file,caption\n{'x' * 5000}.png,a", "which is not in"),
        ("a.csv", "file,caption\n\0.png,a", "which is not in"),
        ("a.csv", f"{'x' * 5000},b", "needs a column 'file'"),
    ],
)
def test_a_hostile_table_is_refused_in_one_short_line(
    pictures: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        find_captions(files(pictures), CaptionSource(table=tmp_path / name))
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)


def test_a_caption_of_megabytes_is_refused(pictures: Path) -> None:
    (pictures / "p0.txt").write_text("word " * 100_000, encoding="utf-8")
    with pytest.raises(ConfigError, match="it has more than 65,536 bytes"):
        find_captions(files(pictures), CaptionSource())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a column 'file', its first line has nothing"),
        ("file,words\np0.png,a", "needs a column 'caption'"),
        ("file,caption\np0.png,a\np0.png,b", "names 'p0.png' twice"),
        ("file,caption\np9.png,a", "names 'p9.png', which is not in"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(pictures: Path, tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "captions.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_captions(files(pictures), CaptionSource(table=table))


def test_captions_that_are_no_text_are_refused(pictures: Path, tmp_path: Path) -> None:
    (pictures / "p0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        find_captions(files(pictures), CaptionSource())
    with pytest.raises(ConfigError, match="No such file"):
        find_captions(files(pictures), CaptionSource(table=tmp_path / "none.csv"))


def test_two_sources_of_captions_are_refused(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be given together"):
        find_captions(files(pictures), CaptionSource(caption="a", table=Path("b.csv")))


def test_pictures_that_share_a_caption_file_are_refused(pictures: Path, tools: SimpleNamespace) -> None:
    tools.draw(pictures / "p0.jpg", 5)
    with pytest.raises(ConfigError, match=r"'p0.txt' would be the caption of several pictures: p0.jpg, p0.png"):
        find_captions(files(pictures), CaptionSource())


def test_a_prompt_begins_with_the_trigger_and_has_no_dangling_comma() -> None:
    assert make_prompt("ink wash", "a cat,") == "ink wash, a cat"
    assert make_prompt("ink wash", "") == "ink wash"
    assert choose_sheet_captions({Path("a"): "x", Path("b"): "x", Path("c"): "y"}, 4) == ["x", "y"]


def test_every_picture_comes_once_an_epoch_whatever_the_batch() -> None:
    for batch in (1, 2, 3, 7):
        places = [picture for step in range(15) for picture in batch_members(4, step, batch, 5)][:15]
        for epoch in range(3):
            assert sorted(places[5 * epoch : 5 * epoch + 5]) == list(range(5))
    assert batch_members(0, 3, 4, 10) == batch_members(0, 3, 4, 10)


def test_draws_differ_by_seed_purpose_and_place() -> None:
    seeds: Callable[..., int] = lambda *key: make_generator(*key).initial_seed()  # noqa: E731
    drawn = {seeds(0, "sample", 1, 2), seeds(0, "sample", 2, 1), seeds(1, "sample", 1, 2), seeds(0, "sheet", 1, 2)}
    assert len(drawn) == 4


@pytest.mark.parametrize("caption", ["a cat", "", "my style of a cat"])
def test_a_prompt_without_its_trigger_words_is_the_caption(caption: str) -> None:
    assert remove_trigger("my style", make_prompt("my style", caption)) == caption


def test_prompts_captions_and_nothing_are_drawn_in_the_shares_asked_for() -> None:
    config = StyleTrainingConfig(name="x", caption_dropout=0.1, trigger_dropout=0.6)
    example = Example((), "style, a cat", "a cat")
    drawn = [example.choose_prompt(chance / 100, config) for chance in range(100)]
    assert {words: drawn.count(words) for words in drawn} == {"": 10, "a cat": 60, "style, a cat": 30}
