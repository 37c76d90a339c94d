"""`stylescore compare` on the command line: a whole session, results, export, and refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from stylescore.cli.main import exit_code
from stylescore.comparison.study import make_study
from stylescore.comparison.votes import Votes
from stylescore.evaluation.pairs import list_results


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "sms", "dds"):
        (tmp_path / name).mkdir()
        for n in range(2):
            Image.new("RGB", (20, 20), "red").save(tmp_path / name / f"p{n}.png")
    return tmp_path


def collect(folders: Path) -> None:
    """Write votes without a server: one for each method."""
    study = make_study({name: list_results(folders / name) for name in ("sms", "dds")}, [])
    votes = Votes.open(folders / "votes.sqlite", study, ["anna"])
    for number, task in enumerate(study.tasks("anna")):
        votes.save("anna", number, task, "style", "left" if task.left == ("sms", "dds")[number] else "right")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_a_session_from_the_link_to_the_results(folders: Path) -> None:
    program = [sys.executable, "-m", "stylescore", "compare"]
    command = [*program, "sms", "dds", "--source", "photos", "--questions", "style"]
    here = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        link = next(line.split(": ", 1)[1].strip() for line in lines if line.startswith("voter: "))
        with urllib.request.urlopen(f"{link}state", timeout=20) as response:
            assert json.load(response)["total"] == 2
        vote = json.dumps({"task": 0, "question": "style", "choice": "tie"}).encode()
        told = urllib.request.Request(f"{link}vote", vote, {"Content-Type": "application/json"})
        with urllib.request.urlopen(told, timeout=20) as response:
            assert json.load(response)["done"] == 1
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "style: 1 vote by 1 voter, 1 tie among them" in out


def test_results_export_and_json(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(folders)
    assert exit_code(["compare", "--results", "--export", "votes.csv"]) == 0
    out = capsys.readouterr().out
    assert "style: 2 votes by 1 voter" in out
    assert "+0.00" in out
    assert (
        Path("votes.csv").read_text(encoding="utf-8").startswith("voter,photo,question,left,right,choice,time\nanna,")
    )
    assert exit_code(["compare", "--results", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["rate"] for entry in found["questions"]["style"]["win_rates"]} == {
        "sms": 0.5,
        "dds": 0.5,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a comparison needs at least two folders, got 0"),
        (("sms",), "a comparison needs at least two folders, got 1"),
        (("sms", "sms"), "a folder of results is given twice"),
        (("sms", "none"), "there is no folder 'none'"),
        (("sms", "dds", "--questions", "beauty"), "questions must be of style, content, overall, not beauty"),
        (("sms", "dds", "--voter", "a", "--voter", "a"), "every --voter needs a name of its own"),
        (("sms", "dds", "--port", "70000"), "--port must be between 0 and 65535, not 70000"),
        (("sms", "dds", "--host", "0.0.0.0"), "--host 0.0.0.0 needs --address"),
        (("sms", "dds", "--host", "203.0.113.1"), "cannot listen on 203.0.113.1:0"),
        (("sms", "dds", "--style", "none.png"), "there is no file 'none.png'"),
        (("sms", "dds", "--pairs", "-1"), "--pairs must be 0 or more, not -1"),
        (("sms", "dds", "--pairs", "1000001"), "--pairs must be at most 1,000,000, not 1000001"),
        (("sms", "dds", "--seed", "-1"), "--seed must be between 0 and 2^63 - 1, not -1"),
        (("sms", "dds", "--voter", "anna\nben"), "a voter's name must be at most 100 letters on one line, not 'anna"),
        (("sms", "dds", "--voter", "a" * 101), "a voter's name must be at most 100 letters on one line, not 'aaa"),
        (("sms", "dds", "--voter", "\udcff"), "a voter's name must be at most 100 letters on one line"),
        (("sms", "dds", "--host", "a b"), "--host must be the name or number of a machine, not 'a b'"),
        (("sms", "dds", "--host", "\udcff"), "--host must be the name or number of a machine"),
        (("sms", "dds", "--address", ""), "--address must be the name or number of a machine, not ''"),
        (("--results",), "there is no file of votes 'votes.sqlite'"),
        (("--results", "--export", "none/votes.csv"), "the folder of 'none/votes.csv' does not exist"),
    ],
)
def test_refusals(folders: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert exit_code(["compare", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {message}" in err
    assert "hint: " in err
    assert not Path("votes.sqlite").exists()


def test_votes_of_other_folders_are_refused(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect(folders)
    assert exit_code(["compare", "sms", "photos", "--port", "0"]) == 2
    assert "holds the votes of other folders" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    script = (
        "import sys; from stylescore.cli.main import exit_code; code = exit_code(['compare', '--help']); "
        "sys.exit(code or 'torch' in sys.modules or 'sqlite3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
