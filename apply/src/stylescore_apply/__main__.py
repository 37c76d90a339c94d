"""The program's entry: loads the command line and runs it, so that Ctrl-C while it loads is one line too."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the program and exit with its code."""
    try:
        import signal

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        from stylescore_apply.cli import exit_code

        sys.exit(exit_code())
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
