"""The program as such: help at once, no arguments, wrong arguments, version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from stylescore import __version__
from stylescore.__main__ import SPINS, wait_briefly
from stylescore.cli.main import run

HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL", "safetensors", "huggingface_hub")
OPTIONS = (
    *("--style", "--style-strength", "--model", "--style-model", "--prompt", "--style-prompt", "--method"),
    *("--preset", "--content", "--iterations", "--size", "--seed", "--device", "--dtype", "--output", "--resume"),
    *("--preview-every", "--gif", "--preview-model", "--json", "--quiet", "--set", "--batch"),
)

LOADED = """
import json, sys
from stylescore.cli.main import exit_code
codes = [exit_code(arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_help_and_wrong_arguments_load_no_library() -> None:
    calls = [["--help"], ["stylize", "--help"], ["--version"], ["styles", "--json"], ["stylize", "--nonsense"]]

    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    codes, modules = json.loads(done.stdout.splitlines()[-1])

    assert codes == [0, 0, 0, 0, 2]
    assert set(HEAVY).isdisjoint(modules)


def test_help_tells_every_option(program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    outcome = program("stylize", "--help")

    assert outcome.code == 0
    assert outcome.err == ""
    for option in OPTIONS:
        assert f"{option} " in outcome.out


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_tells_every_command(option: str, program: Callable[..., Any]) -> None:
    outcome = program(option)

    assert outcome.code == 0
    for command in ("stylize", "train-style", "train-generator", "styles", "inspect", "doctor"):
        assert command in outcome.out


COMMANDS = ("stylize", "train-style", "train-generator", "styles", "inspect", "doctor")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(
    command: str, program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    outcome = program(*command.split(), "--help")

    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_every_command_is_described_in_one_line_of_80_columns(
    program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    lines = program("--help").out.partition("Commands")[2].splitlines()

    for command in COMMANDS:
        (line,) = [line for line in lines if f" {command} " in line]
        assert line.rstrip("│ ").endswith(".")


def test_without_arguments_the_help_is_shown(program: Callable[..., Any]) -> None:
    outcome = program()

    assert outcome.code == 2
    assert "Usage: stylescore" in outcome.out + outcome.err
    assert "error" not in outcome.err
    assert outcome.err.endswith("what works on this machine\n")
    assert "stylescore stylize photo.jpg --style watercolor" in outcome.err
    assert max(map(len, outcome.err.splitlines())) <= 80


def test_version(program: Callable[..., Any]) -> None:
    outcome = program("--version")

    assert (outcome.code, outcome.out, outcome.err) == (0, f"stylescore {__version__}\n", "")


def test_an_unknown_command(program: Callable[..., Any]) -> None:
    outcome = program("stylise")

    assert outcome.code == 2
    assert outcome.complaint[0].startswith("No such command 'stylise'.")
    assert outcome.complaint[1] == "see stylescore --help"


def test_a_missing_argument(program: Callable[..., Any]) -> None:
    outcome = program("inspect")

    assert outcome.code == 2
    assert outcome.complaint == ["Missing argument 'FILE'.", "see stylescore inspect --help"]


def test_termination_before_a_run_counts_as_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("stylescore.diagnostics.doctor.examine", lambda: os.kill(os.getpid(), signal.SIGTERM))

    with pytest.raises(SystemExit) as stopped:
        run(["doctor"])
    signal.signal(signal.SIGTERM, before)

    assert stopped.value.code == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


def test_line_breaks_in_messages_are_taken_out(program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from stylescore.errors import ConfigError

    def fail() -> None:
        raise ConfigError("one\n  two\r\nthree", hint="four\n\nfive")

    monkeypatch.setattr("stylescore.diagnostics.doctor.examine", fail)

    assert program("doctor").complaint == ["one two three", "four five"]


def test_an_error_without_advice_points_to_the_help(
    program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore.errors import ModelError

    def fail() -> None:
        raise ModelError("the model is odd")

    monkeypatch.setattr("stylescore.diagnostics.doctor.examine", fail)

    assert program("doctor").complaint == ["the model is odd", "see stylescore --help"]


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_wait_briefly_for_one_another_unless_the_user_chose(given: dict[str, str], spins: str | None) -> None:
    environment = dict(given)
    wait_briefly(environment)
    assert environment.get("GOMP_SPINCOUNT") == spins


def test_the_program_sets_it_before_torch_is_loaded() -> None:
    code = (
        "import os, sys; sys.argv = ['stylescore', '--version']\n"
        "from stylescore.__main__ import run\n"
        "try:\n    run()\n"
        "finally:\n    print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines()[-1] == f"{SPINS} False"
