"""What the program says: progress and errors on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylescore.method.fit import Iteration


def say(line: str, *, quiet: bool = False) -> None:
    """Print a line on stderr."""
    if not quiet:
        print(line, file=sys.stderr)


def complain(message: str, hint: str | None) -> None:
    """Print an error and what to do about it, a line each."""
    say(f"error: {one_line(message)}")
    if hint:
        say(f"hint: {one_line(hint)}")


def one_line(text: str) -> str:
    """Return a text with its line breaks, which messages of other libraries have, made spaces."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def give(value: Mapping[str, Any]) -> None:
    """Print a JSON document on stdout."""
    print(json.dumps(value, indent=2))


@contextmanager
def progress(title: str, total: int, done: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show a bar on stderr with speed and time left; the block calls what it gets after each step, with words."""
    if quiet:
        yield lambda words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, words="")

        def advance(words: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, words=f"{words} {speed:.1f} it/s" if speed else words)

        yield advance


def iteration_words(iteration: Iteration) -> str:
    """Return what the bar says of an iteration: its loss, and the network passes of one picture, backward included."""
    step = iteration.step
    loss = float((step.score_loss + step.spectrum_loss).mean())
    passes = (iteration.forward_passes + 2 * iteration.trained_passes) // len(step.t)
    return f"loss {loss:.2e} {passes} passes"
