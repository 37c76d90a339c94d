"""The short form of `python tests/hard_use`: a sample of each kind but the kills, which have a test of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return the result of a short run, by kind."""
    file = tmp_path_factory.mktemp("hard-use") / "found.json"
    few = ("--lines", "40", "--files", "250", "--calls", "20", "--only", "lines", "files", "calls")
    call = [sys.executable, str(HERE), *few, "--json", str(file)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("| kind | tried | held | failed |"), done.stderr
    return {kind["kind"]: kind for kind in json.loads(file.read_text("utf-8"))["kinds"]}


@pytest.mark.parametrize(("kind", "tried"), [("bad command lines", 40), ("damaged files", 250), ("Python calls", 20)])
def test_hard_use_holds(found: dict[str, dict[str, object]], kind: str, tried: int) -> None:
    assert found[kind]["failed"] == []
    assert found[kind]["tried"] == found[kind]["held"] == tried


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the modules of the command."""
    monkeypatch.syspath_prepend(HERE)
    return SimpleNamespace(lines=import_module("lines"), attempts=import_module("attempts"))


def test_there_are_hundreds_of_bad_lines_and_every_option_is_among_them(parts: SimpleNamespace) -> None:
    lines = parts.lines.make_lines()
    assert len(lines) >= 2000
    for command in parts.lines.BASES:
        assert {option.name for option in parts.lines._options(command)} > {"--model", "--set", "--resume", "--output"}
    for command in (*parts.lines.BASES, *parts.lines.LINES):
        names = {option.name for option in parts.lines._options(command)}
        given = {word.partition("=")[0] for line in lines if line[:1] == [command] for word in line}
        assert names <= given


@pytest.mark.parametrize(
    ("code", "out", "err", "reason"),
    [
        (2, "", "error: a\nhint: b\n", ""),
        (1, "", "note: c\nerror: a\nhint: b\n", ""),
        (0, "", "", "it was accepted"),
        (2, "", "error: a\n", "1 lines error:, 0 lines hint:"),
        (2, "", "Traceback (most recent call last):\n", "a traceback"),
        (3, "", "error: a\nhint: b\n", "exit code 3"),
        (-9, "", "", "killed by signal 9, or took more than 60 s"),
        (2, "x", "error: a\nhint: b\n", "something on standard output"),
        (2, "", "warned\nerror: a\nhint: b\n", "other lines: ['warned']"),
    ],
)
def test_a_line_is_judged(parts: SimpleNamespace, code: int, out: str, err: str, reason: str) -> None:
    assert parts.lines.judge(parts.attempts.Outcome(code, out, err)) == reason


def test_what_an_attempt_leaves_is_seen_and_removed(parts: SimpleNamespace, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "kept").write_text("a", encoding="utf-8")

    def action() -> int:
        Path("new").mkdir()
        Path("new", "file").write_text("b", encoding="utf-8")
        print("told")
        raise KeyError("lost")

    outcome = parts.attempts.attempt(place, action)
    assert (outcome.code, outcome.out) == (parts.attempts.CRASH, "told\n")
    assert outcome.err.endswith("KeyError: 'lost'\n")
    assert outcome.left == ("new", "new/file")
    assert [path.name for path in place.iterdir()] == ["kept"]
