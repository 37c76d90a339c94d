"""Signals: the first one is acknowledged at once, a delayed part ends by itself, the write of a state is not broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stylescore.cli import signals
from stylescore.cli.signals import Interrupts
from stylescore_apply.storage.files import SIGNALS, uninterrupted

PHOTO = Path(__file__).parent.parent / "data" / "parity" / "input_128x128.png"


@pytest.fixture(autouse=True)
def heeds_hang_ups() -> Iterator[None]:
    """Undo what `nohup make test` sets, under which hang-ups are ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_of_a_delayed_part_is_acknowledged_and_only_noted(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupts() as interrupts:
        with interrupts.delayed("step"):
            assert not interrupts.requested
            send(number)
            assert capfd.readouterr().err == "stopping after this step; Ctrl-C again stops at once\n"
            assert interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            interrupts.raise_if_requested()


def test_the_second_signal_interrupts_and_those_right_after_it_do_not(capfd: pytest.CaptureFixture[str]) -> None:
    with Interrupts(quiet=True) as interrupts, interrupts.delayed("step"):
        send()
        with pytest.raises(KeyboardInterrupt):
            send()
        send()
        assert capfd.readouterr().err == ""


def test_a_signal_that_comes_later_interrupts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "UNWINDING_SECONDS", 0.01)
    with Interrupts(quiet=True):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                send()
            time.sleep(0.02)


def test_outside_of_a_delayed_part_a_signal_interrupts_at_once() -> None:
    with Interrupts() as interrupts:
        with interrupts.delayed("step"):
            pass
        with pytest.raises(KeyboardInterrupt):
            send()


def test_handlers_are_restored_and_an_ignored_hang_up_stays_ignored() -> None:
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is None:
        pytest.skip("no SIGHUP on this system")
    before = signal.signal(hang_up, signal.SIG_IGN)
    try:
        with Interrupts():
            send(hang_up)
            assert signal.getsignal(hang_up) == signal.SIG_IGN
    finally:
        signal.signal(hang_up, before)
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_a_signal_while_something_is_written_waits_for_it() -> None:
    done = []

    def write() -> None:
        with uninterrupted():
            send()
            send()
            done.append("written")

    with Interrupts(quiet=True), pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["written"]


def test_two_signals_in_a_row_leave_a_state(
    stylize: Callable[..., Any], stop_after: Callable[..., None], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes while the state is written, which the first one has brought about."""
    from stylescore.runs import folder as folders

    original = folders._write_state

    def write_state(path: Path, state: Any) -> None:
        send()
        original(path, state)

    monkeypatch.setattr(folders, "_write_state", write_state)
    stop_after(2, send)

    outcome = stylize(PHOTO)

    assert outcome.code == 130
    (folder,) = out.iterdir()
    assert f"saved; resume with: stylescore stylize --resume {folder}" in outcome.err
    assert (folder / "state.safetensors").is_file()


def test_a_signal_before_the_first_iteration_says_how_to_begin_again(
    stylize: Callable[..., Any],
    resume: Callable[..., Any],
    out: Path,
    other_photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stylescore.runs.runner import Batch

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "start", lambda *_: send())
        outcome = stylize(PHOTO, other_photo)

    assert outcome.code == 130
    (folder,) = out.iterdir()
    assert outcome.err.splitlines() == [
        f"no state is saved; begin again with: stylescore stylize --resume {folder}",
        "1 of the photos not begun; the same command goes on with them",
        "error: interrupted",
    ]
    assert [path.name for path in folder.iterdir()] == ["config.toml"]
    assert resume(folder).code == 0


def test_a_run_that_is_not_quiet_acknowledges(stylize: Callable[..., Any], stop_after: Callable[..., None]) -> None:
    stop_after(2, send)
    outcome = stylize(PHOTO, quiet=False)
    assert outcome.code == 130
    assert "stopping after this iteration; Ctrl-C again stops at once\n" in outcome.err


def test_a_signal_between_the_pictures_of_a_batch_stops_after_the_picture_in_progress(
    stylize: Callable[..., Any],
    resume: Callable[..., Any],
    out: Path,
    other_photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from stylescore.runs.runner import Batch

    original = Batch._write_result

    def write_result(batch: Batch, index: int, job: Any) -> Any:
        if index == 0:
            send()
        return original(batch, index, job)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_write_result", write_result)
        outcome = stylize(PHOTO, other_photo, "--batch", "2", quiet=False)

    assert outcome.code == 130
    assert "stopping after this picture; Ctrl-C again stops at once\n" in outcome.err
    first, second = sorted(out.iterdir())
    assert outcome.paths == [first / "picture.png"]
    assert f"saved; resume with: stylescore stylize --resume {second}" in outcome.err
    assert f"--resume {first}\n" not in outcome.err
    resumed = resume(out).picture
    assert resumed == second / "picture.png"


def test_a_signal_while_the_program_itself_is_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    places = os.pathsep.join([str(tmp_path), *sys.path])
    call = [sys.executable, "-m", "stylescore", "styles"]
    done = subprocess.run(call, env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
