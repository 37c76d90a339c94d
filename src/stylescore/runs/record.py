"""The record of a run, `config.toml`: which command made it, from which files, and with which settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import tomli_w

from stylescore._version import __version__
from stylescore.config.toml import LONGEST_TOML, from_table, parse_toml, to_table
from stylescore.errors import ConfigError
from stylescore.runs.folder import RunFolder
from stylescore.storage.texts import read_text
from stylescore_apply.storage.files import atomic

T = TypeVar("T")

Hashes = Mapping[str, str | tuple[str, ...]]
"""SHA-256 hashes of a run's inputs, by what they are, such as `photo` or `style_model`."""

HEAD = ("command", "version", "hashes")


@dataclass(frozen=True, kw_only=True)
class Record(Generic[T]):
    """What `config.toml` holds: enough to resume the run, and to repeat it.

    Attributes:
        command: the command that made the folder.
        hashes: of the run's inputs.
        settings: the command's own part, a frozen dataclass whose fields stand beside `command` in the file.
        version: of this program.
    """

    command: str
    hashes: Hashes
    settings: T
    version: str = __version__


def to_toml(record: Record[Any]) -> str:
    """Return a record as the text of `config.toml`."""
    hashes = {name: list(value) if isinstance(value, tuple) else value for name, value in record.hashes.items()}
    head = {"command": record.command, "version": record.version, "hashes": hashes}
    return str(tomli_w.dumps(head | to_table(record.settings)))


def flat_settings(record: Record[Any]) -> dict[str, Any]:
    """Return a record's settings by dotted names such as `run.method.iterations`, as JSON would return them."""
    return dict(_flatten("", to_table(record.settings)))


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every entry of nested tables and of lists of tables."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        parts = enumerate(value)
    else:
        yield name, value
        return
    for key, part in parts:
        yield from _flatten(f"{name}.{key}" if name else str(key), part)


def write_record(folder: RunFolder, record: Record[Any]) -> None:
    """Write `config.toml` into a new folder, which is removed if that fails.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        replace_record(folder, record)
    except BaseException:
        folder.path.rmdir()
        raise


def replace_record(folder: RunFolder, record: Record[Any]) -> None:
    """Write `config.toml` into a folder that may have one.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic(folder.config_file) as temporary:
        temporary.write_text(to_toml(record), encoding="utf-8")


def read_record(folder: RunFolder, command: str, settings: type[T]) -> Record[T]:
    """Read `config.toml` of a folder that a command has made.

    Args:
        folder: of the run.
        command: the command that is to resume it.
        settings: dataclass of the command's own part.

    Raises:
        ConfigError: there is none, it cannot be read, or it belongs to another command.
    """
    table = _read_table(folder.config_file)
    _require_command(folder.path, table.get("command"), command)
    version = table.get("version")
    if not isinstance(version, str):
        raise ConfigError(f"version must be a text, not {version!r}", hint="write the version of stylescore")
    own: T = from_table(settings, {name: value for name, value in table.items() if name not in HEAD})
    return Record(command=command, version=version, hashes=_read_hashes(table.get("hashes")), settings=own)


def is_made_by(folder: RunFolder, command: str) -> bool:
    """Return whether a folder has a record that a command has made.

    Raises:
        ConfigError: it cannot be read.
    """
    return folder.config_file.is_file() and _read_table(folder.config_file).get("command") == command


def _read_table(file: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(file, limit=LONGEST_TOML))
    except (OSError, ValueError) as error:
        reason = f"config.toml: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(
            f"{str(file.parent)!r} is not a run folder: {reason}", hint="give the folder that holds config.toml"
        ) from error


def _require_command(path: Path, found: Any, command: str) -> None:
    if not isinstance(found, str):
        raise ConfigError(
            f"{str(path)!r} cannot be resumed: its config.toml does not say which command made it",
            hint="it was made by an older version; begin a new run",
        )
    if found != command:
        raise ConfigError(
            f"the run in {str(path)!r} was made by {found!r}, not by {command!r}",
            hint=f"stylescore {shlex.quote(found)} --resume {shlex.quote(str(path))}",
        )


def _read_hashes(table: Any) -> dict[str, str | tuple[str, ...]]:
    if not isinstance(table, dict):
        raise ConfigError(f"hashes must be a table of texts, not {table!r}", hint="begin a new run")
    return {name: _read_hash(name, value) for name, value in table.items()}


def _read_hash(name: str, value: Any) -> str | tuple[str, ...]:
    entries = value if isinstance(value, list) else [value]
    wrong = next((entry for entry in entries if not isinstance(entry, str)), None)
    if wrong is not None:
        raise ConfigError(f"hashes.{name} must be a text, not {wrong!r}", hint="begin a new run")
    return tuple(entries) if isinstance(value, list) else entries[0]
