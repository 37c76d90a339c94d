"""The folder of a training: configuration, loss log, sample sheets, and the checkpoint while it lasts."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore._version import __version__
from stylescore.config.toml import from_table
from stylescore.errors import ConfigError, OutputError
from stylescore.runs.folder import RunFolder
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.loop import TrainStep


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What `config.toml` holds: enough to go on, or to repeat the training.

    Attributes:
        pictures: the folder of pictures.
        caption: one for all, if it was given.
        captions: the table of captions, if one was given.
        strict: whether a picture that cannot be used stops the training.
        replace: whether an older style of this name is replaced.
        data_sha256: hash of pictures and prompts.
        model_sha256: hash of the base's files.
        version: of this program.
        config: the numbers, resolved.
    """

    pictures: str
    caption: str | None = None
    captions: str | None = None
    strict: bool = False
    replace: bool = False
    data_sha256: str
    model_sha256: str
    version: str = __version__
    config: StyleTrainingConfig


@dataclass(frozen=True)
class TrainingFolder:
    """One training's folder."""

    run: RunFolder

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.run.path

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished training is kept."""
        return self.path / "checkpoint.safetensors"

    @property
    def events(self) -> Path:
        """Where TensorBoard finds its files."""
        return self.path / "tensorboard"

    def sheet(self, steps: int) -> Path:
        """Where the sample sheet after so many steps goes."""
        return self.path / "samples" / f"step-{steps:06d}.png"

    def begin(self, record: TrainingRecord) -> None:
        """Write `config.toml` into the new folder, which is removed if that fails."""
        self.run.begin(record)

    def read_record(self) -> TrainingRecord:
        """Read `config.toml`.

        Raises:
            ConfigError: there is none, or it is not one of a training.
        """
        try:
            table = tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
            record: TrainingRecord = from_table(TrainingRecord, table)
        except (OSError, ValueError, ConfigError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"{str(self.path)!r} is not the folder of a training: config.toml: {reason}",
                hint="give the folder that train-style made",
            ) from error
        return record

    def steps_written(self) -> int:
        """Return how many lines the loss log has."""
        log = self.path / "steps.jsonl"
        return len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0


def step_row(step: TrainStep) -> dict[str, Any]:
    """Return a step's line of `steps.jsonl`; JSON has no infinity, which a step in float16 may overflow to."""
    finite = math.isfinite(step.gradient_norm)
    return asdict(step) | {"gradient_norm": step.gradient_norm if finite else None}


class Events:
    """TensorBoard's log; lines of a training that was resumed from earlier are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        try:
            self._writer = SummaryWriter(str(folder), purge_step=step or None)
        except OSError as error:
            raise OutputError(f"{str(folder)!r} cannot be written: {error.strerror}") from error

    def add(self, step: TrainStep) -> None:
        """Log one step's curves."""
        self._writer.add_scalar("loss", step.loss, step.index)
        self._writer.add_scalar("learning rate", step.learning_rate, step.index)
        self._writer.add_scalar("gradient norm", step.gradient_norm, step.index)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
