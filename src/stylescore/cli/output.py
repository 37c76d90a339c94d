"""Prints what a command reports: results on stdout; progress, notes and errors on stderr. Checks where it writes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from stylescore.errors import OutputError, StylescoreError
from stylescore_apply.terminal import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, Task

    from stylescore.runs.folder import RunFolder

_LONGEST_TITLE = 30
_PROBE_BYTES = 4096


def say(line: str, *, quiet: bool = False) -> None:
    """Print a line on stderr, on a terminal wrapped between words."""
    if not quiet:
        print("\n".join(_wrap(line)) if sys.stderr.isatty() else line, file=sys.stderr)


def _wrap(line: str) -> list[str]:
    """Wrap a line at the terminal's width."""
    width = max(40, shutil.get_terminal_size().columns)
    return wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False) or [""]


def print_result(line: str) -> None:
    """Print a line on stdout."""
    print(line)


def is_terminal() -> bool:
    """Return whether results are printed on a terminal, and not into a file or pipe."""
    return sys.stdout.isatty()


def print_error(message: str, hint: str | None) -> None:
    """Print an error on one line of stderr, and on a second one what to do about it."""
    say(f"error: {one_line(message)}")
    if hint:
        say(f"hint: {one_line(hint)}")


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON document on stdout."""
    print_result(json.dumps(value, indent=2))


def silence_libraries() -> None:
    """Turn off the model libraries' warnings and log lines; their errors are still raised."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for package in ("diffusers", "transformers", "huggingface_hub", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?")


class Bar:
    """A progress bar, or nothing where there is no one to see it. Calling it counts one step.

    What comes after the last step counts as one more: the bar moves on until it is finished.
    """

    def __init__(self, live: Progress | None, total: int, done: int) -> None:
        self._live, self._total, self._done = live, total, done

    def __call__(self, text: str = "") -> None:
        """Count a step; `text` is shown behind it."""
        self._done += 1
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=self._done)
            self._show(text, "writing" if self._done == self._total else _time_left(self._live.tasks[0]))

    def finish(self) -> None:
        """Leave the bar as it is; lines printed after this stand below it."""
        if self._live is not None and self._live.live.is_started:
            if self._done == self._total:
                self._live.update(self._live.task_ids[0], completed=self._total + 1)
            self._show()
            self._live.live.stop()
            if not self._live.console.is_terminal:
                self._live.console.print()  # there, the bar is shown once, without an end of line

    def _show(self, *texts: str) -> None:
        """Show the steps behind the bar, and texts after them."""
        assert self._live is not None
        steps = f"step {self._done} of {self._total}"
        self._live.update(self._live.task_ids[0], text=", ".join(filter(None, (steps, *texts))))


def _time_left(task: Task) -> str:
    """Return the time left in words, or an empty text while it cannot be estimated."""
    return "" if task.time_remaining is None else f"{format_duration(task.time_remaining)} left"


@contextmanager
def progress(title: str, total: int, done: int, *, quiet: bool) -> Iterator[Bar]:
    """Show a progress bar on stderr, with steps and time left.

    Args:
        title: text before the bar.
        total: number of steps.
        done: steps that are finished already.
        quiet: whether to show nothing.

    Yields:
        The bar. Standard output is not redirected by it: finish it before a result is printed.
    """
    if quiet:
        yield Bar(None, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn("line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
    )
    live = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
    live.add_task(_shorten(title), total=total + 1, completed=done, text=f"step {done} of {total}")
    bar = Bar(live, total, done)
    live.start()
    try:
        yield bar
    finally:
        bar.finish()


def _shorten(title: str) -> str:
    """Cut a long title in its middle, so that a bar fits beside it."""
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 13]}...{title[-10:]}"


@contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Show a spinner with what is being done, on a terminal only; it vanishes at the end."""
    if quiet:
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(_shorten(what)), spinner="line"):
        yield


def format_duration(seconds: float) -> str:
    """Format a time in s, min, h or days: the smallest of these units that gives less than 100."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"


def require_writable(folder: Path, hint: str = "choose another --output") -> None:
    """Raise `OutputError` unless files can be written into a folder, or into the one in which it will be made.

    A file without a name is written there, which leaves nothing: it is the only sure test of a full or read-only disk.
    """
    try:
        place = folder.absolute()
    except OSError as error:
        raise OutputError("the working folder does not exist any more", hint="change to another one with cd") from error
    try:
        with TemporaryFile(dir=_nearest_folder(place)) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        path = os.path.join(folder, "")
        raise OutputError(f"cannot write to {path!r}: {error.strerror or error}", hint=hint) from error


def _nearest_folder(path: Path) -> Path:
    """Return a path itself if something is there, else the nearest of its parents that exists."""
    for each in (path, *path.parents):
        try:
            each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return each
    return path


def first_failure(error: StylescoreError) -> StylescoreError:
    """Return the failure that came first, if `error` was met while that one was handled.

    On a full disk, saving the state of a run fails too; what the user should read is why the run stopped.
    """
    link: BaseException | None = error
    while link is not None:
        following = link.__cause__ if link.__cause__ is not None else link.__context__
        if link.__cause__ is None and link.__suppress_context__:
            break
        if isinstance(following, StylescoreError):
            return error if link.__cause__ is following else first_failure(following)
        link = following
    return error


@contextmanager
def add_resume_hint(command: str, folders: Sequence[RunFolder]) -> Iterator[None]:
    """Add to the hint of a failed write in the block how to resume the runs whose state is saved."""
    try:
        yield
    except OutputError as error:
        saved = [shlex.quote(str(folder.path)) for folder in folders if folder.state_file.is_file()]
        first = first_failure(error)
        lines = [first.hint or "", *(f"stylescore {command} --resume {path}" for path in saved)]
        first.hint = "; then ".join(filter(None, lines))
        raise
