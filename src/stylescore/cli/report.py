"""Prints what became of each photo: the picture's path when it is made, or a row of a JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stylescore.cli.output import is_terminal, print_result, say

if TYPE_CHECKING:
    from stylescore.cli.batch import Options
    from stylescore.runs.outcomes import Outcome


def report(outcomes: Iterator[Outcome], options: Options, *, total: int) -> None:
    """Print each photo's outcome as it comes; at the end, the photos that failed.

    Raises:
        BatchError: some of several photos could not be made.
    """
    from stylescore.runs.outcomes import batch_error

    document = JsonDocument("pictures")
    failures: list[Outcome] = []
    try:
        for outcome in outcomes:
            if outcome.error is not None:
                failures.append(outcome)
            if options.json:
                document.add(to_row(outcome))
            elif outcome.folder is not None and outcome.error is None:
                _print_picture(outcome, named=total > 1 and not options.quiet, quiet=options.quiet)
        if options.json:
            document.start()
    finally:
        document.finish()
        for outcome in failures:
            say(f"not made: {outcome.photo}: {outcome.error}")
    if failures:
        raise batch_error(failures, total)


class JsonDocument:
    """A JSON document that is one list of objects, printed one by one; nothing is printed before the first."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = False
        self._rows = 0

    def start(self) -> None:
        """Print the document's beginning, unless it is printed already."""
        if not self._started:
            print_result(f'{{"{self._name}": [')
        self._started = True

    def add(self, row: dict[str, Any]) -> None:
        """Print an object of the list."""
        self.start()
        print_result(f"{',' if self._rows else ' '} {json.dumps(row)}")
        self._rows += 1

    def finish(self) -> None:
        """Print the end of a document that has begun, also of one that is cut short."""
        if self._started:
            print_result("]}")


def _print_picture(outcome: Outcome, *, named: bool, quiet: bool) -> None:
    """Print a picture's path; `named` adds the photo it was made from, on stdout only where a person reads it."""
    assert outcome.folder is not None
    path = str(outcome.folder.picture)
    line = f"{outcome.photo} -> {path}"
    if outcome.status == "finished before":
        say(f"note: {outcome.photo}: finished before; --overwrite makes it again", quiet=quiet)
    if named and not is_terminal():
        say(line)
    print_result(line if named and is_terminal() else path)


def to_row(outcome: Outcome) -> dict[str, Any]:
    """Return one photo's entry of the JSON document."""
    if outcome.error is not None:
        reason = {"error": str(outcome.error), "hint": outcome.error.hint}
        return {"photo": str(outcome.photo), "status": outcome.status, "picture": None, **reason}
    folder, settings, size = outcome.folder, outcome.settings, outcome.size
    assert folder is not None
    assert settings is not None
    assert size is not None
    return {
        "photo": str(outcome.photo),
        "status": outcome.status,
        "folder": str(folder.path),
        "picture": str(folder.picture),
        "model_picture": str(folder.model_picture),
        "before_after": str(folder.before_after),
        "gif": str(folder.animation) if settings.gif else None,
        "caption": settings.run.caption,
        "width": size[0],
        "height": size[1],
        "iterations": settings.run.method.iterations,
        "seed": settings.run.seed,
    }
