"""The short form of `tests/runs/killer.py`: two killed runs of each command, one by time and one while it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLER = Path(__file__).with_name("killer.py")


@pytest.mark.parametrize("command", ["stylize --batch 2", "train-style", "train-generator"])
def test_what_is_killed_ends_in_the_same_bits(command: str) -> None:
    call = [sys.executable, str(KILLER), "--kills", "2", "--commands", command]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
