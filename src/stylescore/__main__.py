"""The program's entry: loads the command line and runs it, so that Ctrl-C while it loads is one line too."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def run() -> None:
    """Run the program and exit with its code."""
    try:
        from stylescore.cli import main

        main.run()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run()
