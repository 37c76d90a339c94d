"""From what a user names to inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stylescore_apply.errors import OutputError, PictureError
from stylescore_apply.images.writing import Format
from stylescore_apply.inputs import Job, plan_jobs

OUT = Path("out")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Work in an empty folder; return a maker of empty files in it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def make(*names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()

    return make


def plan(*inputs: str, out: Path = OUT, recursive: bool = False, chosen: Format | None = None) -> dict[str, str]:
    jobs = plan_jobs(inputs, out, recursive=recursive, chosen=chosen)
    return {str(job.source): job.target.as_posix() for job in jobs}


def test_a_file_keeps_its_name_and_format(place: Callable[..., None]) -> None:
    place("a.JPG", "b.webp", "c.avif", "d.jpeg")
    assert plan("a.JPG", "b.webp", "c.avif", "d.jpeg") == {
        "a.JPG": "out/a.jpg",
        "b.webp": "out/b.webp",
        "c.avif": "out/c.avif",
        "d.jpeg": "out/d.jpeg",
    }


def test_formats_that_are_not_written_become_png_or_jpeg(place: Callable[..., None]) -> None:
    place("a.tiff", "b.heic", "c.bmp", "d.gif")
    assert list(plan("a.tiff", "b.heic", "c.bmp", "d.gif").values()) == [
        "out/a.png",
        "out/b.jpg",
        "out/c.png",
        "out/d.png",
    ]


def test_a_chosen_format_changes_the_ending_if_it_must(place: Callable[..., None]) -> None:
    assert plan("a.jpeg", "b.png", chosen="jpeg") == {"a.jpeg": "out/a.jpeg", "b.png": "out/b.jpg"}


def test_videos_keep_a_container_that_can_be_cut_off() -> None:
    assert list(plan("a.MOV", "b.webm", "c.mp4").values()) == ["out/a.mp4", "out/b.mkv", "out/c.mp4"]


def test_a_folder_is_searched_without_hidden_files_other_files_and_subfolders(place: Callable[..., None]) -> None:
    place("in/b.png", "in/a.jpg", "in/.hidden.png", "in/notes.txt", "in/sub/c.png")
    assert plan("in") == {"in/a.jpg": "out/a.jpg", "in/b.png": "out/b.png"}


def test_a_tree_keeps_its_layout(place: Callable[..., None]) -> None:
    place("in/a.jpg", "in/sub/a.jpg", "in/sub/deep/b.mp4", "in/.git/c.png")
    assert plan("in", recursive=True) == {
        "in/a.jpg": "out/a.jpg",
        "in/sub/a.jpg": "out/sub/a.jpg",
        "in/sub/deep/b.mp4": "out/sub/deep/b.mp4",
    }


def test_results_inside_of_the_folder_are_no_inputs(place: Callable[..., None]) -> None:
    place("in/a.jpg", "in/out/a.jpg")
    assert plan("in", out=Path("in/out"), recursive=True) == {"in/a.jpg": "in/out/a.jpg"}


def test_a_pattern_is_expanded_and_a_file_of_that_name_comes_first(place: Callable[..., None]) -> None:
    place("a1.png", "a2.png", "cat[1].png", "sub/a3.png")
    assert list(plan("a?.png")) == ["a1.png", "a2.png"]
    assert list(plan("cat[1].png")) == ["cat[1].png"]
    assert list(plan("**/a*.png")) == ["a1.png", "a2.png", "sub/a3.png"]


def test_a_file_that_is_named_twice_is_made_once(place: Callable[..., None]) -> None:
    place("a1.png")
    assert len(plan_jobs(["a1.png", "a*.png"], OUT, recursive=False, chosen=None)) == 1


def test_files_of_one_name_are_kept_apart(place: Callable[..., None]) -> None:
    assert plan("x/a/p.jpg", "x/b/p.jpg", "x/q.jpg") == {
        "x/a/p.jpg": "out/a/p.jpg",
        "x/b/p.jpg": "out/b/p.jpg",
        "x/q.jpg": "out/q.jpg",
    }


def test_files_whose_results_would_have_one_name_are_kept_apart() -> None:
    assert plan("a.jpg", "a.png", "b.png", chosen="webp") == {
        "a.jpg": "out/a.jpg.webp",
        "a.png": "out/a.png.webp",
        "b.png": "out/b.webp",
    }


def test_a_single_file_may_have_a_name() -> None:
    assert plan("a.jpg", out=Path("b.png")) == {"a.jpg": "b.png"}
    assert plan("a.jpg", out=Path("-")) == {"a.jpg": "-"}
    assert plan("-", out=Path("-")) == {"-": "-"}
    assert plan("-", out=Path("b.webp")) == {"-": "b.webp"}
    assert plan("-") == {"-": "out/standard-input.png"}


def test_a_folder_whose_name_looks_like_a_file_is_a_folder(place: Callable[..., None]) -> None:
    place("album.png/x")
    assert plan("a.jpg", out=Path("album.png")) == {"a.jpg": "album.png/a.jpg"}


def test_several_results_need_a_folder() -> None:
    with pytest.raises(OutputError, match=r"2 results cannot be written to 'b.png'"):
        plan("a.jpg", "c.jpg", out=Path("b.png"))
    with pytest.raises(OutputError, match="2 results cannot be written to standard output"):
        plan("a.jpg", "c.jpg", out=Path("-"))


def test_a_result_never_replaces_its_input(place: Callable[..., None]) -> None:
    place("a.jpg", "in/b.jpg")
    for inputs, out in ((["a.jpg"], Path("a.jpg")), (["a.jpg"], Path(".")), (["in"], Path("in"))):
        with pytest.raises(OutputError, match="would replace it"):
            plan_jobs(inputs, out, recursive=False, chosen=None)


def test_what_names_nothing_is_refused(place: Callable[..., None]) -> None:
    place("in/notes.txt", "deep/er/a.png")
    with pytest.raises(PictureError, match=r"no file matches 'z\*.png'"):
        plan("z*.png")
    with pytest.raises(PictureError, match="the folder 'in' holds no picture or video"):
        plan("in")
    with pytest.raises(PictureError, match="holds no picture") as caught:
        plan("deep")
    assert "--recursive" in (caught.value.hint or "")


def test_a_job_is_done_if_its_result_is_there_and_not_older(place: Callable[..., None]) -> None:
    import os

    place("a.jpg", "out/a.jpg")
    job = Job(Path("a.jpg"), Path("out/a.jpg"))
    os.utime("a.jpg", (100, 100))
    assert job.is_done
    os.utime("out/a.jpg", (99, 99))
    assert not job.is_done
    Path("out/a.jpg").unlink()
    assert not job.is_done
