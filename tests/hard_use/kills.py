"""Kills: `tests/runs/killer.py` as one row of the table."""

from __future__ import annotations

import tempfile
from pathlib import Path

from attempts import Tally
from place import load_module


def run(count: int, seed: int = 0) -> Tally:
    """Kill so many runs of each command; one holds if it is resumed to the end of an unbroken one, bit by bit."""
    killer, tally = load_module("runs/killer.py"), Tally("kills")
    for command in killer.COMMANDS if count else ():
        with tempfile.TemporaryDirectory() as folder:
            found = killer.run(command, count, seed, Path(folder))
        tally.tried += count
        tally.failed += [f"{command}: {line}" for line in found.wrong]
    return tally
