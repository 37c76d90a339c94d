"""The program: many inputs, failures among them, what it prints and returns."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.apply.tiny import picture, reference

from stylescore_apply import batch
from stylescore_apply.cli import exit_code
from stylescore_apply.noise import noise_field

NetworkFile = Callable[..., Path]
PhotoFile = Callable[..., Path]


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network_file: NetworkFile) -> Path:
    """Work in a folder with the network blur.onnx, and nothing in the style folder."""
    network_file()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path / "styles"))
    return tmp_path


def expected(photo: np.ndarray, seed: int = 0) -> np.ndarray:
    height, width = photo.shape[:2]
    return reference(photo, noise_field(seed, 2, (0, -(-height // 8)), (0, -(-width // 8)))) * 255


def test_one_picture(photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]) -> None:
    photo_file("a.png")
    assert exit_code(["blur.onnx", "a.png", "--out", "made", "--seed", "3"]) == 0
    with Image.open("made/a.png") as result:
        np.testing.assert_allclose(np.asarray(result), expected(picture(), 3), atol=0.51)
    printed = capsys.readouterr()
    assert printed.out == f"{Path('made', 'a.png')}\n"
    assert printed.err.startswith("1 picture in ")
    assert "pictures/s" in printed.err


def test_what_the_file_states_is_said(
    photo_file: PhotoFile, network_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    photo_file("a.png")
    network_file("stating", {"passes": 3, "strength": 0.5})
    assert exit_code(["stating.onnx", "a.png", "--out", "made"]) == 0
    assert "note: 3 passes with strength 0.5, as the file states" in capsys.readouterr().err
    for more, passes, strength in (((), 3, 0.5), (("--passes", "2"), 2, 1.0), (("--strength", "0.2"), 3, 0.2)):
        assert exit_code(["stating.onnx", "a.png", "--overwrite", "--out", "made", "--json", "--quiet", *more]) == 0
        printed = capsys.readouterr()
        report = json.loads(printed.out)
        assert (report["passes"], report["strength"]) == (passes, strength)
        assert printed.err == ""


def test_results_go_into_a_folder_named_after_the_style(photo_file: PhotoFile, work: Path) -> None:
    photo_file("a.png")
    (work / "styles").mkdir()
    (work / "blur.onnx").rename(work / "styles" / "blur.onnx")
    assert exit_code(["blur", "a.png"]) == 0
    assert Path("out/blur/a.png").is_file()


def test_a_tree_and_what_is_done(photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/a.png", "in/x/b.jpg", "in/x/y/c.webp"):
        photo_file(name)
    call = ["blur.onnx", "in", "-r", "-o", "made"]
    assert exit_code([*call, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["made"], report["skipped"], report["failed"]) == (3, 0, 0)
    assert report["pictures_per_second"] > 0
    assert sorted(p.as_posix() for p in Path("made").rglob("*.*")) == ["made/a.png", "made/x/b.jpg", "made/x/y/c.webp"]
    before = Path("made/a.png").stat().st_mtime_ns
    assert exit_code(call) == 0
    assert "3 skipped" in capsys.readouterr().err
    assert Path("made/a.png").stat().st_mtime_ns == before
    assert exit_code([*call, "--overwrite", "--seed", "1"]) == 0
    assert Path("made/a.png").stat().st_mtime_ns != before


def test_it_goes_on_after_failures_and_lists_them(photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]) -> None:
    photo_file("a.png")
    photo_file("d.png")
    Path("b.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    assert exit_code(["blur.onnx", "a.png", "b.png", "missing.png", "d.png", "--json"]) == 1
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [entry["status"] for entry in report["results"]] == ["made", "failed", "failed", "made"]
    assert "there is no file 'missing.png'" in report["results"][2]["error"]
    assert "error: 'b.png' is not a picture of a supported format" in printed.err
    assert printed.err.count("hint: ") == 2
    assert exit_code(["blur.onnx", "a.png", "b.png", "d.png"]) == 1
    assert "2 skipped" in (told := capsys.readouterr().err)
    assert "1 failed" in told


def test_a_single_unusable_input_is_an_unusable_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["blur.onnx", "missing.png"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no file 'missing.png'\nhint: ")


def pipe(arguments: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "stylescore_apply", *arguments]
    return subprocess.run(command, input=given, capture_output=True, env=os.environ | source_path(), check=False)


def source_path() -> dict[str, str]:
    import stylescore_apply

    return {"PYTHONPATH": str(Path(stylescore_apply.__file__).parents[1])}


def test_standard_input_to_standard_output() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG")
    done = pipe(["blur.onnx", "-", "--format", "webp", "--quality", "100"], buffer.getvalue())
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as result:
        assert (result.format, result.size) == ("WEBP", (40, 24))
    damaged = pipe(["blur.onnx", "-"], b"rubbish")
    assert (damaged.returncode, damaged.stdout) == (2, b"")
    assert b"error: 'standard input' is a text file, not a picture\nhint: " in damaged.stderr
    assert b"/tmp" not in damaged.stderr


def test_transparency_in_a_jpeg_is_said(photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGBA", (16, 16), (1, 2, 3, 0)).save("a.png")
    assert exit_code(["blur.onnx", "a.png", "--format", "jpeg"]) == 0
    assert "note: JPEG has no transparency" in capsys.readouterr().err


def test_quiet_prints_nothing(photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]) -> None:
    photo_file("a.png")
    assert exit_code(["blur.onnx", "a.png", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "a.png"], "a file or folder must not be an empty text"),
        (["blur.onnx", ""], "a file or folder must not be an empty text"),
        (["blur.onnx", "a.png", "--out", ""], "a file or folder must not be an empty text"),
        (["/dev/zero", "a.png"], "the network '/dev/zero' is a device or pipe, not a file"),
        (["blur.onnx"], "the following arguments are required: INPUT"),
        (["blur.onnx", "a.png", "--sed", "1"], "unrecognized arguments: --sed"),
        (["blur.onnx", "a.png", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["blur.onnx", "a.png", "--seed", "-1"], "seed must be a whole number between 0 and"),
        (["blur.onnx", "a.png", "--memory-limit", "3"], "memory_limit must be a whole number between 64"),
        (["blur.onnx", "a.png", "--quality", "0"], "quality must be a whole number between 1 and 100"),
        (["blur.onnx", "a.png", "--format", "png", "--quality", "9"], "--quality does not apply to PNG"),
        (["blur.onnx", "a.png", "--format", "gif"], "argument --format: invalid choice: 'gif'"),
        (["blur.onnx", "a.png", "--threads", "-2"], "threads must be a whole number"),
        (["blur.onnx", "a*.gif"], "no file matches 'a*.gif'"),
        (["blu", "a.png"], "there is no network of the style 'blu'"),
        (["none.onnx", "a.png"], "there is no network 'none.onnx'"),
    ],
)
def test_what_cannot_be_used_is_said_in_two_lines(
    arguments: list[str], message: str, photo_file: PhotoFile, capsys: pytest.CaptureFixture[str]
) -> None:
    photo_file("a.png")
    assert exit_code(arguments) == 2
    first, second, *rest = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second.startswith("hint: ")
    assert not rest
    assert not Path("out").exists()


def test_the_closest_style_is_suggested(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "styles").mkdir()
    (work / "blur.onnx").rename(work / "styles" / "blur.onnx")
    assert exit_code(["blurr", "a.png"]) == 2
    assert "did you mean 'blur'?" in capsys.readouterr().err


def test_an_interrupt_ends_with_130_and_leaves_whole_files(
    photo_file: PhotoFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        photo_file(f"in/{number}.png")
    computed = iter(range(10))
    compute = batch.stylize

    def interrupt(*arguments: object) -> object:
        if next(computed) == 3:
            raise KeyboardInterrupt
        return compute(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "stylize", interrupt)
    assert exit_code(["blur.onnx", "in", "-o", "made"]) == 130
    assert "error: interrupted" in capsys.readouterr().err
    for path in Path("made").iterdir():
        assert not path.name.startswith(".")
        with Image.open(path) as result:
            result.load()


def test_reading_writing_and_computing_run_side_by_side(photo_file: PhotoFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a picture is computed, the next is read and the last one is written: each waits for the other."""
    for number in range(4):
        photo_file(f"in/{number}.png")
    read_next, written = threading.Event(), threading.Event()
    read, write, compute, count = batch._read, batch._write, batch.stylize, iter(range(9))

    def reading(job: batch.Job) -> object:
        if job.source.stem == "2":
            read_next.set()
        return read(job)

    def writing(*arguments: object) -> object:
        written.set()
        return write(*arguments)  # type: ignore[arg-type]

    def computing(*arguments: object) -> object:
        if next(count) == 1:
            assert read_next.wait(10)
            assert written.wait(10)
        return compute(*arguments)  # type: ignore[arg-type]

    for name, function in (("_read", reading), ("_write", writing), ("stylize", computing)):
        monkeypatch.setattr(batch, name, function)
    assert exit_code(["blur.onnx", "in", "-o", "made"]) == 0


@pytest.fixture
def unwritable(work: Path) -> Path:
    (work / "file").touch()
    return work / "file" / "made"


def test_an_output_folder_that_cannot_be_made(
    photo_file: PhotoFile, unwritable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo_file("a.png")
    assert exit_code(["blur.onnx", "a.png", "-o", str(unwritable)]) == 2
    assert "cannot be made: Not a directory" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    from stylescore_apply._version import __version__

    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"stylescore-apply {__version__}\n"
    assert exit_code(["--help"]) == 0
    assert "--keep-location" in capsys.readouterr().out
