"""Prints what a command reports: results on stdout; progress, notes and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylescore.method.fit import Iteration


def say(line: str, *, quiet: bool = False) -> None:
    """Print a line on stderr."""
    if not quiet:
        print(line, file=sys.stderr)


def print_error(message: str, hint: str | None) -> None:
    """Print an error on one line of stderr, and on a second one what to do about it."""
    say(f"error: {_join_lines(message)}")
    if hint:
        say(f"hint: {_join_lines(hint)}")


def _join_lines(text: str) -> str:
    """Replace line breaks, which messages of other libraries contain, by spaces."""
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON document on stdout."""
    print(json.dumps(value, indent=2))


def silence_libraries() -> None:
    """Turn off the model libraries' warnings and log lines; their errors are still raised."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for package in ("diffusers", "transformers", "huggingface_hub", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?")


@contextmanager
def progress(title: str, total: int, done: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show a progress bar on stderr, with speed and time left.

    Args:
        title: text before the bar.
        total: number of steps.
        done: steps that are finished already.
        quiet: whether to show nothing.

    Yields:
        A function to call after each step with the text to show behind the bar.
    """
    if quiet:
        yield lambda text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, text="")

        def advance(text: str) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=1, text=f"{text} {speed:.1f} it/s" if speed else text)

        yield advance


def describe_iteration(iteration: Iteration) -> str:
    """Describe an iteration for the bar: its loss, and the network passes of one picture, backward included."""
    step = iteration.step
    loss = float((step.score_loss + step.spectrum_loss).mean())
    passes = (iteration.forward_passes + 2 * iteration.trained_passes) // len(step.t)
    return f"loss {loss:.2e} {passes} passes"
