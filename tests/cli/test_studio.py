"""`stylescore studio` as a command: what it refuses before it serves, and how it ends what computes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from stylescore.cli import studio as command
from stylescore.runs.lock import hold
from stylescore.studio.folder import StudioFolder, default_folder
from stylescore.studio.jobs import STOP, JobStore
from stylescore.studio.serve import StudioOptions, _choose_token

Program = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--token", "short"), "--token must have 16 to 128"),
        (("--token", "with a blank in it"), "--token must have 16 to 128"),
        (("--port", "70000"), "--port must be between 0 and 65535, not 70000"),
        (("--host", "192.0.2.1"), "cannot listen at 192.0.2.1"),
        (("--host", "a b"), "--host must be the name or number of a machine, not 'a b'"),
        (("--host", ""), "--host must be the name or number of a machine, not ''"),
        (("--styles", "missing"), "--styles must name a folder"),
        (("--model", "missing"), "there is no model 'missing'"),
        (("--device", "gpu"), "--device must be auto, cpu"),
        (("--device", "cpu", "--device", "cpu"), "names a device twice"),
    ],
)
def test_wrong_options_are_refused(program: Program, tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    outcome = program("studio", "--no-browser", "--data", tmp_path / "data", *arguments)
    assert outcome.code == 2
    assert reason in outcome.complaint[0]
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken_is_refused(program: Program, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = program("studio", "--no-browser", "--data", tmp_path, "--port", taken.getsockname()[1])
    assert "the studio cannot listen at 127.0.0.1" in outcome.complaint[0]


def test_a_folder_has_one_server(program: Program, tmp_path: Path) -> None:
    folder = StudioFolder.make(tmp_path)
    folder.server.mkdir()
    (folder.server / "address").write_text("http://127.0.0.1:9")
    with hold(folder.server):
        for options in (("--no-browser",), ("--stop",)):
            outcome = program("studio", "--data", tmp_path, *options)
            assert "runs already, at http://127.0.0.1:9" in outcome.complaint[0]


def test_stop_makes_no_studio_where_there_is_none(program: Program, tmp_path: Path) -> None:
    outcome = program("studio", "--stop", "--data", tmp_path / "none")
    assert outcome.code == 2
    assert outcome.complaint == [f"there is no studio in '{tmp_path / 'none'}'", "name its folder with --data"]
    assert not (tmp_path / "none").exists()


def test_stop_asks_the_workers_to_end(program: Program, tmp_path: Path) -> None:
    StudioFolder.make(tmp_path)
    assert program("studio", "--stop", "--data", tmp_path).code == 0
    assert JobStore(StudioFolder(tmp_path).database).last_mark(STOP) > 0


def test_without_the_extra_it_says_how_to_get_it(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else util.find_spec(name))
    message, hint = program("studio").complaint
    assert message == "the studio needs uvicorn"
    assert "stylescore[studio]" in hint


def test_others_need_a_token_and_this_machine_none(tmp_path: Path) -> None:
    assert _choose_token(StudioOptions(folder=tmp_path)) is None
    drawn = {_choose_token(StudioOptions(folder=tmp_path, host="0.0.0.0")) for _ in range(2)}
    assert len(drawn) == 2
    assert all(len(token or "") >= 32 for token in drawn)
    assert _choose_token(StudioOptions(folder=tmp_path, token="my-own-token-0123")) == "my-own-token-0123"


def test_the_folder_is_the_variables_or_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLESCORE_STUDIO", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("STYLESCORE_STUDIO")
    assert default_folder().name == "studio"
    assert default_folder().parent.name == "stylescore"
