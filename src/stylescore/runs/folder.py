"""The folder of a run: settings, log, saved state and curves; every file but the log is written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stylescore.errors import ConfigError, OutputError
from stylescore.method.state import State
from stylescore_apply.storage.files import atomic, partial_path, remove_partials, uninterrupted

S = TypeVar("S", bound=State)
F = TypeVar("F", bound="RunFolder")

WITHOUT_LOG = "remove it to resume without the log of the earlier iterations, or begin a new run"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. What a command writes into it besides is for a subclass to name."""

    path: Path

    @classmethod
    def new(cls: type[F], parent: Path, name: str, fill: Callable[[F], None] | None = None) -> F:
        """Make a folder `parent/name`, or `name-2`, `name-3`... where it is taken.

        Args:
            parent: made if it is missing; what killed processes left unfinished in it is removed.
            name: of the folder.
            fill: writes into the folder before it has its name, so that it appears with these files or not at all.

        Raises:
            OutputError: it cannot be made.
        """
        hidden = cls(partial_path(parent))
        try:
            hidden.path.mkdir(parents=True)
        except OSError as error:
            raise _write_error(parent / name, error) from error
        try:
            remove_partials(parent, owned=False)
            if fill is not None:
                fill(hidden)
            return cls(_rename_to_free(hidden.path, parent / name))
        except BaseException:
            shutil.rmtree(hidden.path, ignore_errors=True)
            raise

    @property
    def config_file(self) -> Path:
        """The record of the run, see `stylescore.runs.record`."""
        return self.path / "config.toml"

    @property
    def log_file(self) -> Path:
        """The log, one line for each iteration."""
        return self.path / "steps.jsonl"

    @property
    def state_file(self) -> Path:
        """The saved state of an unfinished run."""
        return self.path / "state.safetensors"

    @property
    def staged_state_file(self) -> Path:
        """A later state, while those of the other pictures of a batch are still to be written."""
        return self.path / "state-next.safetensors"

    @property
    def curves(self) -> Path:
        """The folder of TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the run writes, but those in subfolders."""
        return (self.log_file, self.state_file, self.staged_state_file)

    @property
    def subfolders(self) -> tuple[Path, ...]:
        """Every folder that the run may write in this one."""
        return (self.curves,)

    def check_places(self) -> None:
        """Raise `OutputError` if a file stands where the run writes a subfolder, or a folder where it writes a file."""
        for path in self.subfolders:
            if os.path.lexists(path) and not path.is_dir():
                raise OutputError(f"{str(path)!r} is not a folder, the run needs one there", hint="move it away")
        for path in self.files:
            if path.is_dir():
                raise OutputError(f"{str(path)!r} is a folder, the run needs a file there", hint="move it away")

    def remove_partials(self) -> None:
        """Remove what killed processes left unfinished; the folder's lock must be held."""
        for path in (self.path, *self.subfolders):
            remove_partials(path, owned=True)

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise _write_error(self.path, error) from error

    def count_steps(self) -> int:
        """Return how many lines the log has; 0 without a log.

        Raises:
            ConfigError: it cannot be read.
        """
        return len(self._lines())

    def check_steps(self, iterations: int) -> list[str]:
        """Return the lines of the first iterations; fewer if the log is shorter.

        Raises:
            ConfigError: the log cannot be read, or one of these lines is not a whole JSON object.
        """
        lines = self._lines()[:iterations]
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n") or not _is_json_object(line):
                raise ConfigError(f"the log {str(self.log_file)!r} is damaged in line {number}", hint=WITHOUT_LOG)
        return lines

    def cut_steps(self, iterations: int) -> None:
        """Remove from the log what comes after the first iterations."""
        lines = self.check_steps(iterations)
        if self.log_file.is_file():
            with atomic(self.log_file) as temporary:
                temporary.write_text("".join(lines), encoding="utf-8")

    def _lines(self) -> list[str]:
        try:
            return self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigError(f"the log {str(self.log_file)!r} cannot be read: {reason}", hint=WITHOUT_LOG) from error

    def save_state(self, state: State) -> None:
        """Write the state of an unfinished run; Ctrl-C waits until it is written."""
        with uninterrupted():
            _write_state(self.state_file, state)
            self.staged_state_file.unlink(missing_ok=True)

    def stage_state(self, state: State) -> None:
        """Write a state beside the one before, which it replaces in `commit_state`."""
        with uninterrupted():
            _write_state(self.staged_state_file, state)

    def commit_state(self) -> None:
        """Let the staged state replace the one before.

        Raises:
            OutputError: the system refuses.
        """
        try:
            self.staged_state_file.replace(self.state_file)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def load_state(self, kind: type[S]) -> S | None:
        """Return the saved state, or `None` if there is none.

        Raises:
            ConfigError: the file is damaged, or its metadata are not those of this kind of state.
        """
        return read_state(self.state_file, kind)

    def load_staged_state(self, kind: type[S]) -> S | None:
        """Return the staged state, or `None` if there is none.

        Raises:
            ConfigError: as for `load_state`.
        """
        return read_state(self.staged_state_file, kind)

    def remove_state(self) -> None:
        """Delete the saved state of a finished run.

        Raises:
            OutputError: the system refuses.
        """
        try:
            self.staged_state_file.unlink(missing_ok=True)
            self.state_file.unlink(missing_ok=True)
        except OSError as error:
            raise _write_error(self.path, error) from error


class Curves:
    """TensorBoard's curves of a run; the points of a run that was resumed from earlier are hidden."""

    def __init__(self, folder: RunFolder, iteration: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder.curves), purge_step=iteration or None)
        except OSError as error:
            raise _write_error(folder.curves, error) from error

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Write one point of every curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write the points that are not written yet."""
        self._writer.close()


def make_folder(path: Path) -> None:
    """Make a subfolder of a run's folder unless it is there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise _write_error(path, error) from error


def _rename_to_free(hidden: Path, wanted: Path) -> Path:
    """Rename a folder to the first of `wanted`, `wanted-2`, `wanted-3`... that is free, and return its new path.

    Raises:
        OutputError: a file has the name, or the system refuses.
    """
    number = 1
    while True:
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            if not os.path.lexists(path):
                return hidden.rename(path)
        except OSError as error:
            if not path.is_dir():  # else another process was faster
                raise _write_error(path, error) from error
        if not path.is_dir():
            raise _write_error(path, FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)))
        number += 1


def _write_state(path: Path, state: State) -> None:
    """Write a state: its tensors, and its other fields as JSON in the file's metadata."""
    others = {field.name: getattr(state, field.name) for field in fields(state) if field.name != "tensors"}
    metadata = {name: json.dumps(value) for name, value in others.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(save(dict(state.tensors), metadata=metadata))


def read_state(path: Path, kind: type[S]) -> S | None:
    """Return the state in a file, or `None` if there is no such file.

    Raises:
        ConfigError: the file is damaged, or its metadata are not those of this kind of state.
    """
    if not path.is_file():
        return None
    try:
        tensors, metadata = _read_tensors(path)
        others = {name: json.loads(value) for name, value in metadata.items()}
        _require_types(others)
        state = kind(tensors=tensors, **others)
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the saved state {str(path)!r} is damaged: {error}", hint="begin a new run") from error
    return state


def _require_types(values: Mapping[str, Any]) -> None:
    if type(values.get("iteration")) is not int:
        raise ValueError("its iteration is not a whole number")
    if not isinstance(values.get("settings"), dict | None):
        raise ValueError("its settings are not a table")


def _write_error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to {str(path)!r}: {error.strerror or error}", hint="choose another --output")


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a safetensors file's tensors and metadata.

    Raises:
        ValueError: it has no metadata, or a tensor holds NaN or infinity.
    """
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        metadata = file.metadata()
    if not metadata:
        raise ValueError("it has no metadata")
    _require_finite(tensors.values())
    return tensors, metadata


def _require_finite(tensors: Iterable[Tensor]) -> None:
    if any(tensor.is_floating_point() and not bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError("it holds NaN or infinity")
