"""Closed, full and vanished places: one line each, exit code 2, nothing half-written, and no model loaded for it."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stylescore.cli.main import exit_code
from stylescore.cli.output import require_writable, say
from stylescore.cli.streams import GuardedStream, output_of_this_thread
from stylescore.errors import OutputError

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not os.path.exists(FULL), reason="there is no /dev/full")
CLOSED = "error: standard output cannot be written: it is closed"


def shell(words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a shell, as `stylescore`."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; stylescore() {{ {sys.executable} -m stylescore "$@"; }}; {words}'],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a model is loaded."""

    def fail(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("stylescore.cli.stylize._load", fail)
    monkeypatch.setattr("stylescore.cli.train_style._load", fail)


class TestStandardOutput:
    @pytest.mark.parametrize("command", ["styles", "styles --json", "--help", "--version", "doctor", "stylize x.png"])
    def test_closed(self, command: str) -> None:
        done = shell(f"stylescore {command} >&-")
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == CLOSED
        assert len(done.stderr.splitlines()) == 2

    @needs_full
    @pytest.mark.parametrize("command", ["styles --json", "--help", "--version"])
    def test_full(self, command: str) -> None:
        done = shell(f"stylescore {command} >{FULL}")
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == "error: standard output cannot be written: No space left on device"
        assert len(done.stderr.splitlines()) == 2

    @pytest.mark.parametrize("command", ["styles --json", "--help"])
    def test_a_pipe_that_nobody_reads(self, command: str) -> None:
        done = shell(f"stylescore {command} | true")
        assert (done.returncode in (0, 141), done.stderr) == (True, "")

    def test_standard_error_may_be_closed(self) -> None:
        done = shell("stylescore styles 2>&-")
        assert done.returncode == 0
        assert "watercolor" in done.stdout
        assert "Your own styles" not in done.stdout

    @needs_full
    def test_standard_error_may_be_full(self) -> None:
        assert shell(f"stylescore styles 2>{FULL}").returncode == 0

    def test_a_batch_is_made_although_nobody_reads_the_paths(
        self,
        stylize: Callable[..., Any],
        photo: Path,
        other_photo: Path,
        out: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def write(*_: Any) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

        original = GuardedStream.__init__

        def broken(stream: Any, given: Any) -> None:
            original(stream, given)
            if given is sys.__stdout__ or given is real:
                stream._stream = type("Broken", (), {"write": write, "flush": write})()

        real = sys.stdout
        monkeypatch.setattr(GuardedStream, "__init__", broken)
        outcome = stylize(photo, other_photo, "--iterations", "1")

        assert (outcome.code, outcome.out, outcome.err) == (141, "", "")
        assert len(list(out.glob("*/picture.png"))) == 2


def test_what_other_threads_print_is_kept_off_the_results(capfd: pytest.CaptureFixture[str]) -> None:
    with output_of_this_thread():
        thread = threading.Thread(target=lambda: print("noise"))
        thread.start()
        thread.join()
        print("result")
    print("after")
    assert capfd.readouterr() == ("result\nafter\n", "noise\n")


class TestFolders:
    def test_an_output_that_is_a_file(
        self, stylize: Callable[..., Any], photo: Path, tmp_path: Path, no_model: None
    ) -> None:
        file = tmp_path / "file"
        file.write_text("mine", encoding="utf-8")
        for place in (file, file / "below"):
            outcome = stylize(photo, "--output", place)
            assert (outcome.code, outcome.complaint[1]) == (2, "choose another --output")
            assert outcome.complaint[0] == f"cannot write to '{place}/': Not a directory"
        assert file.read_text("utf-8") == "mine"

    @pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
    def test_a_place_that_refuses(
        self,
        number: int,
        stylize: Callable[..., Any],
        photo: Path,
        out: Path,
        no_model: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(**_: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("stylescore.cli.output.TemporaryFile", refuse)
        outcome = stylize(photo)

        assert (outcome.code, outcome.complaint[0]) == (2, f"cannot write to '{out}/': {os.strerror(number)}")
        assert not out.exists()

    def test_the_style_folder_of_a_training(
        self, program: Callable[..., Any], own_styles: Path, tmp_path: Path, no_model: None
    ) -> None:
        own_styles.rmdir()
        own_styles.write_text("", encoding="utf-8")
        outcome = program("train-style", tmp_path, "--name", "mine", "--output", tmp_path / "out")

        assert outcome.code == 2
        assert outcome.complaint[0] == f"cannot write to '{own_styles}/': Not a directory"
        assert "STYLESCORE_STYLES" in outcome.complaint[1]

    def test_a_writable_place_is_left_as_it_was(self, tmp_path: Path) -> None:
        before = list(tmp_path.iterdir())
        require_writable(tmp_path / "new" / "er")
        assert list(tmp_path.iterdir()) == before

    def test_a_working_folder_that_was_removed(
        self, stylize: Callable[..., Any], photo: Path, tmp_path: Path, no_model: None
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        before = Path.cwd()
        os.chdir(gone)
        gone.rmdir()
        try:
            outcome = stylize(photo, "--output", "out")
        finally:
            os.chdir(before)

        assert outcome.code == 2
        assert outcome.complaint[0] == "the working folder does not exist any more"

    def test_an_output_that_vanishes_in_the_run(
        self, stylize: Callable[..., Any], photo: Path, out: Path, stop_after: Callable[..., None]
    ) -> None:
        stop_after(2, lambda: shutil.rmtree(out))
        outcome = stylize(photo)

        assert outcome.code == 2
        assert outcome.complaint[0].startswith(f"cannot write to '{out}/")
        assert outcome.complaint[0].endswith("No such file or directory")
        assert "--resume" not in outcome.complaint[1]

    def test_a_full_disk_names_the_first_failure_and_what_can_be_resumed(
        self, stylize: Callable[..., Any], photo: Path, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stylescore.runs.folder import RunFolder

        def full(folder: RunFolder, row: Any) -> None:
            folder.state_file.write_bytes(b"an earlier state")
            raise OutputError("the log is full", hint="free some space")

        def full_too(*_: Any) -> None:
            raise OutputError("the state is full")

        monkeypatch.setattr(RunFolder, "append_step", full)
        monkeypatch.setattr(RunFolder, "save_state", full_too)
        outcome = stylize(photo)
        (folder,) = out.iterdir()

        assert outcome.code == 2
        told = ["the log is full", f"free some space; then stylescore stylize --resume {folder}"]
        assert outcome.complaint == told

    def test_any_refusal_of_the_system_is_one_line(
        self, program: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise PermissionError(errno.EACCES, "Permission denied", "somewhere")

        monkeypatch.setattr("stylescore.diagnostics.doctor.examine", fail)
        outcome = program("doctor")

        assert outcome.code == 2
        assert "Permission denied: 'somewhere'" in outcome.complaint[0]


def on_terminal(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> str:
    """Do something with a terminal of 80 columns as standard error; return what was shown on it."""
    reader, writer = pty.openpty()
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while part := os.read(reader, 65536):
                parts.append(part)

    thread = threading.Thread(target=read)
    thread.start()
    with monkeypatch.context() as patch, os.fdopen(writer, "w", encoding="utf-8") as stream:
        patch.setenv("COLUMNS", "80")
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stream)
        action()
    thread.join()
    os.close(reader)
    return b"".join(parts).decode()


def visible(shown: str) -> list[str]:
    """Return the lines that stay on a terminal: what was erased or drawn over is left out."""
    plain = re.sub(r"\x1b\[\d*A\r?\x1b\[2K|\r\x1b\[1A\x1b\[2K", "\r", shown.replace("\r\n", "\n"))
    lines = (re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in plain.split("\n"))
    return [line.rstrip() for line in lines]


class TestTerminal:
    @pytest.fixture
    def words(self, tiny: Path, style: Path, out: Path) -> list[str]:
        return [
            *("stylize", "--style", str(style), "--model", str(tiny), "--output", str(out)),
            *("--size", "64", "--iterations", "3"),
        ]

    def test_the_bar_stays_once_and_results_go_to_standard_output(
        self, words: list[str], photo: Path, out: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = on_terminal(monkeypatch, lambda: exit_code([*words, str(photo)]))

        assert "preparing input_128x128.png" in shown
        lines = visible(shown)
        assert sum("step" in line for line in lines) == 1
        (bar,) = [line for line in lines if "step" in line]
        assert bar.endswith("step 3 of 3")
        assert len(bar) <= 80
        assert capfd.readouterr().out == f"{out / 'input_128x128-style_lora_kohya' / 'picture.png'}\n"

    def test_brackets_in_a_name_are_shown(
        self, words: list[str], photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copy(photo, tmp_path / "cat[old].png")
        shown = on_terminal(monkeypatch, lambda: exit_code([*words, str(tmp_path / "cat[old].png")]))

        assert any("cat[old].png" in line for line in visible(shown) if "step" in line)

    def test_long_lines_are_wrapped_between_words(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "hint: " + "word " * 40
        lines = on_terminal(monkeypatch, lambda: say(text)).splitlines()

        assert max(map(len, lines)) <= 80
        assert " ".join(" ".join(lines).split()) == text.strip()
