"""What the program says: progress and errors on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylescore.fit import Iteration


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


class Ticker:
    """A progress bar that takes iterations."""

    def __init__(self, advance: Any) -> None:
        self._advance = advance

    def __call__(self, iteration: Iteration) -> None:
        """Show one more iteration."""
        step = iteration.step
        loss = float((step.score_loss + step.spectrum_loss).sum())
        self._advance(loss, iteration.forward_passes + 2 * iteration.trained_passes)


@contextmanager
def progress(title: str, total: int, done: int, *, quiet: bool) -> Iterator[Ticker]:
    """Show a bar with loss, speed and time left while the block runs."""
    if quiet:
        yield Ticker(lambda loss, passes: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2e}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bar:
        task = bar.add_task(title, total=total, completed=done, loss=float("nan"), speed="")

        def advance(loss: float, passes: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, loss=loss, speed=f"{speed:.1f} it/s" if speed else "")

        yield Ticker(advance)
