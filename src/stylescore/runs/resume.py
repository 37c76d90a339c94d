"""What resuming a run needs: something left to do, and inputs that have not changed."""

from __future__ import annotations

from typing import Any

from stylescore.errors import ConfigError
from stylescore.runs.folder import RunFolder
from stylescore.runs.record import Hashes, Record


def require_resumable(folder: RunFolder, iteration: int, *, finished: bool, hint: str) -> None:
    """Raise one of our errors if a run has nothing left to do, or cannot write on into its folder.

    Args:
        folder: of the run.
        iteration: iterations done by its saved state.
        finished: whether all its results are there.
        hint: what to do with a finished run.

    Raises:
        ConfigError: it is finished, or its log is damaged.
        OutputError: something stands in its way.
    """
    if finished:
        raise ConfigError(f"the run in {str(folder.path)!r} is finished", hint=hint)
    folder.check_places()
    folder.check_steps(iteration)


def require_unchanged(record: Record[Any], hashes: Hashes) -> None:
    """Raise `ConfigError` if a run's inputs have other hashes now than when it began."""
    for name, now in hashes.items():
        require_same(name.replace("_", " "), record.hashes.get(name), now)


def require_same(what: str, before: object, now: object) -> None:
    """Raise `ConfigError` if one input of a run, named by `what`, is not what it was when the run began."""
    if before != now:
        raise ConfigError(f"the {what} changed after the run began", hint="begin a new run")
