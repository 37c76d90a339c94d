"""What the program prints: results on standard output; progress, notes and errors on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from stylescore_apply.errors import StylescoreError

_REFRESH_SECONDS = 0.1
_LONGEST_LINE = 2000


def one_line(text: str) -> str:
    """Replace line breaks, which messages of other libraries contain, by spaces, and cut the middle of a long text."""
    line = " ".join(filter(None, map(str.strip, text.splitlines())))
    half = _LONGEST_LINE // 2
    return line if len(line) <= _LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


def say(line: str) -> None:
    """Print one line on standard error."""
    print(one_line(line), file=sys.stderr, flush=True)


def print_error(error: StylescoreError, subject: str = "") -> None:
    """Print an error on one line, and on a second one what to do about it."""
    say(f"error: {subject}{error}")
    if error.hint:
        say(f"hint: {error.hint}")


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON document on standard output."""
    print(json.dumps(value, indent=2))


class Status:
    """A line on a terminal that shows progress and is replaced by the next; nothing where there is no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._is_shown = not quiet and sys.stderr.isatty()
        self._last = 0.0

    def show(self, line: str) -> None:
        """Replace the line, but not more often than can be read."""
        now = time.monotonic()
        if self._is_shown and now - self._last > _REFRESH_SECONDS:
            self._last = now
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line, so that another one can be printed."""
        if self._is_shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Format a time in s, min or h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.0f} h"
