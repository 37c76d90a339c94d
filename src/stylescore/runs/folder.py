"""The run folder: everything a run leaves behind, written whole or not at all."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stylescore._version import __version__
from stylescore.config.run import RunConfig
from stylescore.config.toml import from_table, to_table
from stylescore.errors import ConfigError, OutputError
from stylescore.method.fit import Iteration
from stylescore.method.state import PictureState
from stylescore.storage.files import atomic


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `config.toml` holds: enough to repeat the run exactly.

    Attributes:
        photo: path of the source picture.
        photo_sha256: hash of its file.
        model_sha256: hash of the base model's files.
        style_sha256: hashes of the adapters' files, in the order of the run's styles.
        style_prompt: the words the style prompt resolved to.
        style_model_sha256: hash of the style model's files; empty without one.
        gif: whether an animation of the run is made.
        preview_every: iterations between previews; 0 for none.
        version: of this program.
        run: the configuration.
    """

    photo: str
    photo_sha256: str
    model_sha256: str
    style_sha256: tuple[str, ...]
    style_prompt: str
    style_model_sha256: str = ""
    run: RunConfig
    gif: bool = False
    preview_every: int = 0
    version: str = __version__


@dataclass(frozen=True)
class RunFolder:
    """One picture's folder."""

    path: Path

    @classmethod
    def new(cls, parent: Path, name: str) -> RunFolder:
        """Make a folder `parent/name`, or `name-2`, `name-3`... where it is taken.

        Raises:
            OutputError: it cannot be made.
        """
        number = 1
        while True:
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError as error:
                if not path.is_dir():
                    raise unwritable(path, error) from error
                number += 1
            except OSError as error:
                raise unwritable(path, error) from error
            else:
                return cls(path)

    @property
    def picture(self) -> Path:
        """The result at the photo's own size."""
        return self.path / "picture.png"

    @property
    def model_picture(self) -> Path:
        """The result at the size the model worked at."""
        return self.path / "picture-model-size.png"

    @property
    def before_after(self) -> Path:
        """Photo and result side by side."""
        return self.path / "before-after.png"

    @property
    def animation(self) -> Path:
        """The run as an animation."""
        return self.path / "run.gif"

    @property
    def state_file(self) -> Path:
        """Where an unfinished run is kept."""
        return self.path / "state.safetensors"

    def preview(self, iteration: int) -> Path:
        """Where the preview after `iteration` iterations goes."""
        return self.path / "previews" / f"step-{iteration:05d}.png"

    def begin(self, record: object) -> None:
        """Write `config.toml` into the new folder, which is removed if that fails."""
        try:
            self.write_record(record)
        except BaseException:
            self.path.rmdir()
            raise

    def write_record(self, record: object) -> None:
        """Write `config.toml` from a dataclass."""
        with atomic(self.path / "config.toml") as temporary:
            temporary.write_text(tomli_w.dumps(to_table(record)), encoding="utf-8")

    def read_record(self) -> Record:
        """Read `config.toml`.

        Raises:
            ConfigError: there is none, or it is not one of ours.
        """
        file = self.path / "config.toml"
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            reason = f"config.toml: {getattr(error, 'strerror', None) or error}"
            raise ConfigError(
                f"{str(self.path)!r} is not a run folder: {reason}", hint="give the folder that holds config.toml"
            ) from error
        record: Record = from_table(Record, table)
        return record

    def append_step(self, row: Mapping[str, Any]) -> None:
        """Add a line to `steps.jsonl`."""
        try:
            with (self.path / "steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def cut_steps(self, iterations: int) -> None:
        """Keep the first lines of `steps.jsonl` only, one per finished iteration."""
        file = self.path / "steps.jsonl"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            with atomic(file) as temporary:
                temporary.write_text("".join(lines[:iterations]), encoding="utf-8")

    def save_state(self, state: PictureState) -> None:
        """Keep an unfinished run."""
        with atomic(self.state_file) as temporary:
            temporary.write_bytes(save(dict(state.tensors), metadata={"iteration": str(state.iteration)}))

    def load_state(self) -> PictureState | None:
        """Return the kept state, or `None` if there is none.

        Raises:
            ConfigError: the file is damaged.
        """
        if not self.state_file.is_file():
            return None
        try:
            with safe_open(self.state_file, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in tensors.values()):
                    raise ValueError("it holds NaN or infinity")
                return PictureState(int(file.metadata()["iteration"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"the kept state {str(self.state_file)!r} is damaged: {error}", hint="begin a new run"
            ) from error

    def drop_state(self) -> None:
        """Forget the kept state of a finished run."""
        self.state_file.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a folder that cannot be written to."""
    reason = error.strerror or error
    return OutputError(f"cannot write to {str(path)!r}: {reason}", hint="choose another --output")


def step_row(iteration: Iteration, picture: int) -> dict[str, Any]:
    """Return one picture's line of `steps.jsonl`."""
    step, fake = iteration.step, iteration.fake
    batch = len(step.t)
    row = {
        "iteration": iteration.index,
        "t": int(step.t[picture]),
        "learning_rate": iteration.learning_rate,
        "score_loss": float(step.score_loss[picture]),
        "spectrum_loss": float(step.spectrum_loss[picture]),
        "relevance_mean": float(step.relevance[picture].mean()),
        "forward_passes": iteration.forward_passes / batch,
        "trained_passes": iteration.trained_passes / batch,
    }
    if fake is not None:
        row |= {"fake_t": int(fake.t[picture]), "fake_loss": float(fake.loss[picture])}
    return row
