"""`--resume`, the same for every command: the options it excludes, and the lines on how to resume a run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from typer.models import OptionInfo

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
    declared = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        if name not in (*ALLOWED, *allowed) and given[name] not in (parameter.default, []):
            option = _spell(parameter, declared[name].__metadata__[0])
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


def _spell(parameter: Parameter, declaration: Any) -> str:
    """Return a parameter as it is written on the command line: `--compile`, `--set`, `PHOTO`."""
    if not isinstance(declaration, OptionInfo):
        return str(declaration.metavar or parameter.name).rstrip(".")
    declared = (declaration.default, *(declaration.param_decls or ()))  # in `Annotated`, the first one is the default
    spellings = [text for text in declared if isinstance(text, str) and text.startswith("--")]
    return spellings[0] if spellings else f"--{parameter.name.replace('_', '-')}"
