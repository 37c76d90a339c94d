"""What resuming a run needs: something left to do, and inputs and settings that have not changed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from stylescore.errors import ConfigError
from stylescore.method.state import State
from stylescore.runs.folder import RunFolder
from stylescore.runs.record import Hashes, Record, flat_settings

NAMED = 3
"""Changed settings that an error names."""


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


def require_same_settings(record: Record[Any], state: State | None, free: Sequence[str]) -> None:
    """Raise `ConfigError` if a run's settings are not those that made its saved state.

    Args:
        record: of the run, as it is now.
        state: the saved state, if there is one.
        free: patterns of the dotted names of settings that may change, as they do not change the result but by
            rounding.

    Raises:
        ConfigError: another setting differs.
    """
    if state is None or state.settings is None:
        return
    before, now = state.settings, flat_settings(record)
    changed = [
        f"{name} is {_spell(now.get(name))}, was {_spell(before.get(name))}"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name) and not any(fnmatchcase(name, pattern) for pattern in free)
    ]
    if changed:
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise ConfigError(
            f"config.toml changed after the run began: {'; '.join(changed[:NAMED])}{more}",
            hint="undo the change; or begin a new run: copy config.toml into an empty folder and resume that",
        )


def _spell(value: Any) -> str:
    return "not set" if value is None else repr(value)
