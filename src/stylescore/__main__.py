"""The program's entry: loads the command line and runs it, so that Ctrl-C while it loads is one line too."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

INTERRUPTED = 130
SPINS = "3000"
"""Rounds that a thread of GNU's OpenMP waits for the others before it gives its core away; its own choice is 300,000.

Where another program has a core, a waiting thread keeps the one it waits for from running. On two cores, one of them
busy, a run then took seven times as long as with this number, which costs nothing on free cores.
"""


def run() -> None:
    """Run the program and exit with its code."""
    wait_briefly(os.environ)
    try:
        from stylescore.cli import main

        main.run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Set how long torch's threads wait for one another, unless the user has; torch must not be loaded yet."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


if __name__ == "__main__":
    run()
