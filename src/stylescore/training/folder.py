"""The folder of a training: that of a run, with sample sheets, and what its record and its log hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.errors import OutputError
from stylescore.method.state import State
from stylescore.runs.folder import RunFolder
from stylescore.runs.record import Record
from stylescore.training.config import RESULT_FILE, StyleTrainingConfig
from stylescore.training.loop import TrainStep
from stylescore_apply.storage.files import atomic, sha256

COMMAND = "train-style"
FREE = (
    *("pictures", "caption", "captions", "strict", "replace", "start", "extended*"),
    *(f"config.{name}" for name in ("name", "model", "device", "gradient_checkpointing")),
    *("config.samples_every", "config.checkpoint_every"),
)
"""Settings that may change before a training is resumed: those that change its result by rounding only, and the names
of files, whose hashes are compared."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What `config.toml` holds of a training besides its hashes.

    Attributes:
        pictures: the folder of pictures.
        caption: one for all, if it was given.
        captions: the table of captions, if one was given.
        strict: whether a picture that cannot be used stops the training.
        replace: whether an older style of this name is replaced.
        start: the LoRA that the training goes on from, of which the folder has a copy.
        extended: the lengths in steps that were planned before, each time it was made longer.
        config: the numbers, resolved.
    """

    pictures: str
    caption: str | None = None
    captions: str | None = None
    strict: bool = False
    replace: bool = False
    start: str | None = None
    extended: tuple[int, ...] = ()
    config: StyleTrainingConfig


TrainingRecord = Record[TrainingSettings]


@dataclass(frozen=True)
class TrainingState(State):
    """The state of a training: adapter and moments of its optimiser.

    Attributes:
        scaler: state of the loss scaler, which only float16 has.
    """

    scaler: Mapping[str, Any] | None = None


class TrainingFolder(RunFolder):
    """The folder of one training."""

    @property
    def samples(self) -> Path:
        """The folder of the sample sheets."""
        return self.path / "samples"

    @property
    def result_file(self) -> Path:
        """Which style file the training has written, or was about to write when it was killed."""
        return self.path / RESULT_FILE

    @property
    def start_file(self) -> Path:
        """A copy of the LoRA that the training goes on from."""
        return self.path / "start.safetensors"

    @property
    def final_state_file(self) -> Path:
        """The state at the end, from which the training can be made longer."""
        return self.path / "final-state.safetensors"

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the training writes, but those in subfolders."""
        return (*super().files, self.result_file, self.start_file, self.final_state_file)

    def save_result(self, style: Path, digest: str) -> None:
        """Write path and SHA-256 of the style file; it is written before the file is.

        A training that was made longer has written earlier ones, of which one is there until then.
        """
        earlier = [known for known in self._digests() if known != digest]
        row = {"style": str(style), "sha256": digest, **({"earlier": earlier} if earlier else {})}
        with atomic(self.result_file) as temporary:
            temporary.write_text(json.dumps(row) + "\n", encoding="utf-8")

    def has_written(self, style: Path) -> bool:
        """Return whether a style file is there and is one that this training has written."""
        digests = self._digests()
        return bool(digests) and style.is_file() and sha256(style) in digests

    def _digests(self) -> list[str]:
        """Return the SHA-256 of all style files that the training has written, or was about to write."""
        try:
            row = json.loads(self.result_file.read_text(encoding="utf-8"))
            return [str(row["sha256"]), *map(str, row.get("earlier", []))]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return []

    def keep_state(self) -> None:
        """Make the saved state the final one.

        Raises:
            OutputError: the system refuses.
        """
        try:
            self.state_file.replace(self.final_state_file)
        except OSError as error:
            raise OutputError(
                f"cannot write to {str(self.path)!r}: {error.strerror or error}",
                hint="make the folder writable, then resume",
            ) from error

    @property
    def subfolders(self) -> tuple[Path, ...]:
        """Every folder that the training may write in this one."""
        return (*super().subfolders, self.samples)

    def sheet(self, steps: int) -> Path:
        """The sample sheet after so many steps."""
        return self.samples / f"step-{steps:06d}.png"


def step_row(step: TrainStep) -> dict[str, Any]:
    """Return a step's line of the log; JSON has no infinity, which the norm of a step in float16 may be."""
    finite = math.isfinite(step.gradient_norm)
    return asdict(step) | {"gradient_norm": step.gradient_norm if finite else None}


def curve_points(step: TrainStep) -> dict[str, float]:
    """Return a step's points of TensorBoard's curves."""
    return {"loss": step.loss, "learning rate": step.learning_rate, "gradient norm": step.gradient_norm}
