"""`--resume`, the same for every command: the options it excludes, and the lines on how to resume a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stylescore.cli.options import first_given
from stylescore.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from stylescore.runs.folder import RunFolder

ALLOWED = ("resume", "json", "quiet")


def refuse_with_resume(command: Callable[..., None], given: Mapping[str, Any], allowed: Sequence[str] = ()) -> None:
    """Raise `ConfigError` if anything is given besides `--resume` that the run folder has fixed.

    Args:
        command: the command's function; its signature declares the options.
        given: the value of each of its parameters.
        allowed: parameters that may be given besides those of `ALLOWED`.
    """
    option = first_given(command, given, besides=(*ALLOWED, *allowed))
    if option is not None:
        raise ConfigError(
            f"--resume takes all settings from the run folder and cannot be combined with {option}",
            hint=f"leave out {option}, or begin a new run without --resume",
        )


def print_resume(command: str, *folders: RunFolder) -> None:
    """Print how to resume runs that were interrupted: one by one, and several of one parent by one command."""
    from stylescore.cli.output import say

    for folder in folders:
        saved = folder.state_file.is_file()
        start = "saved; resume with" if saved else "no state is saved; begin again with"
        say(f"{start}: {_command(command, folder.path)}")
    if len(folders) > 1:
        say(f"all of them: {_command(command, folders[0].path.parent)}")


def _command(command: str, path: Path) -> str:
    return f"stylescore {command} --resume {shlex.quote(str(path))}"
