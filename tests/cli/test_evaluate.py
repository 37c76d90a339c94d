"""`stylescore evaluate` on the command line: forms of the result, notes, and refusals."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore.catalog import places
from stylescore.cli.main import exit_code

CHEAP = ("--metrics", "histogram", "--bootstrap", "50", "--size", "64", "--device", "cpu")


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(places, "find_spec", lambda _: None)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, ending in (("photos", ".png"), ("out", "-oil.png"), ("other", ".jpg"), ("style", ".png")):
        (tmp_path / name).mkdir()
        for n in range(3):
            pixels = np.random.default_rng([n, len(name)]).integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"p{n}{ending}")
    return tmp_path


def test_a_table_on_the_terminal(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "out" / "p2-oil.png").unlink()
    assert exit_code(["evaluate", "photos", "out", "--style", "style", *CHEAP]) == 0
    out, err = capsys.readouterr()
    assert "N = 2 pairs in out" in out
    assert "histogram" in out
    assert "out: 1 photo without a result: 'p2'" in err


def test_json_markdown_and_csv(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "photos", "out", "other", "--style", "style", "--quiet", *CHEAP]
    assert exit_code([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values["folders"]) == {"out", "other"}
    assert values["unpaired"]["out"] == {"photos_without_result": [], "results_without_photo": []}
    assert values["differences"]["other"]["histogram"]["photos"] == 3
    assert exit_code([*command, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(rows[0]["value"]) == values["folders"]["out"]["metrics"]["histogram"]["value"]
    assert exit_code([*command, "--format", "markdown", "--output", "figures.md"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("figures.md\n", "")
    assert "| `histogram` |" in Path("figures.md").read_text(encoding="utf-8")


def test_missing_weights_are_one_line_for_each_reason(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ("--metrics", "histogram,lpips-alex,lpips-grey")
    assert exit_code(["evaluate", "photos", "out", "--style", "style", *CHEAP[2:], *metrics]) == 0
    out, err = capsys.readouterr()
    assert "lpips" not in out
    lines = [line for line in err.splitlines() if line.startswith("not computed")]
    assert lines == [
        "not computed: lpips-alex, lpips-grey: no weights of torchvision's AlexNet; "
        "hint: --weights alexnet=FILE, where FILE is alexnet-owt-7be5be79.pth"
    ]


def test_captions_beside_the_photos(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "photos", "out", "--style", "style", "--prompt", "oil, {caption}", *CHEAP]
    assert exit_code(command) == 2
    assert "3 of 3 pictures have no caption" in capsys.readouterr().err
    for n in range(3):
        (folders / "photos" / f"p{n}.txt").write_text("a thing", encoding="utf-8")
    assert exit_code(command) == 0


def test_one_pair_is_not_called_pairs(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (1, 2):
        (folders / "out" / f"p{n}-oil.png").unlink()
        (folders / "style" / f"p{n}.png").unlink()
    assert exit_code(["evaluate", "photos", "out", "--style", "style", *CHEAP]) == 0
    out = capsys.readouterr().out
    assert "N = 1 pair in out\n" in out
    assert "N = 1 picture of the style\n" in out


def test_without_any_metric_every_reason_is_said_and_nothing_is_written(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "photos", "out", "--metrics", "histogram,pickscore", "--output", "figures.txt"]
    assert exit_code(command) == 2
    err = capsys.readouterr().err
    assert "not computed: histogram: no pictures of the style" in err
    assert "not computed: pickscore: no prompt" in err
    assert err.endswith("hint: give --style FOLDER\n")
    assert not Path("figures.txt").exists()


def test_common_photos(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "out" / "p2-oil.png").unlink()
    assert exit_code(["evaluate", "photos", "out", "other", "--common", "--style", "style", *CHEAP]) == 0
    assert "N = 2 pairs in other" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "evaluate needs a folder of photos and one of stylized pictures"),
        (("photos",), "evaluate needs a folder of photos"),
        (("none", "out"), "there is no folder 'none'"),
        (("photos", "out", "out"), "a folder of results is given twice"),
        (("photos", "out", "--format", "xml"), "--format must be table, markdown, csv or json, not 'xml'"),
        (("photos", "out", "--weights", "alexnet"), "--weights must be NAME=FILE or NAME=HUB_ID, not 'alexnet'"),
        (("photos", "out", "--weights", "a=b", "--weights", "a=c"), "--weights a is given twice"),
        (("photos", "out", "--metrics", "lpips"), "there is no metric 'lpips'"),
        (("photos", "out", "--metrics", "histogram"), "no metric can be computed; histogram: no pictures of the style"),
        (("photos", "out", "--size", "10"), "--size must be 0 or from 64 to 4096, not 10"),
        (("photos", "out", "--output", "none/figures.md"), "the folder of 'none/figures.md' does not exist"),
    ],
)
def test_refusals(folders: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert exit_code(["evaluate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {message}" in err


def test_the_list_says_what_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["evaluate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (histogram,) = (line for line in lines if line.startswith("histogram"))
    assert histogram.endswith("ready")
    assert exit_code(["evaluate", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["artfid"]["missing"] == [
        "alexnet",
        "lpips-alex",
        "art-inception",
    ]


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from stylescore.cli.main import exit_code; code = exit_code(['evaluate', '--help']); "
        "sys.exit(code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
