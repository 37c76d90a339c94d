"""One run folder, one process; the lock dies with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stylescore.errors import OutputError
from stylescore.runs.lock import NAME, hold

HOLDER = """
import sys, time
from pathlib import Path
from stylescore.runs.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Start a process that holds a folder, and wait until it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_refused_until_its_process_is_killed(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        with pytest.raises(OutputError, match="is in use by another process") as caught, hold(tmp_path):
            pass
        assert caught.value.hint
        assert caught.value.exit_code == 2
    finally:
        process.kill()
        process.wait()
    with hold(tmp_path):
        assert (tmp_path / NAME).is_file()
    assert not (tmp_path / NAME).exists()


def test_the_lock_is_released_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        _ = 1 / 0
    with hold(tmp_path):
        pass


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write to"), hold(tmp_path / "none"):
        pass
