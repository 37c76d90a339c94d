"""The folder of a generator's training: that of a run, with pairs, sheets, kept generators, and the result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.runs.folder import RunFolder
from stylescore.runs.record import Record
from stylescore.training.generator.config import GeneratorTrainingConfig
from stylescore.training.generator.loop import TrainStep

COMMAND = "train-generator"
FREE = (
    *(
        "photos",
        "caption",
        "captions",
        "pair_folder",
        "start",
        "teacher",
        "config.preset",
        "config.workers",
        "config.licence",
    ),
    *("config.samples_every", "config.checkpoint_every", "config.keep", "config.file_dtype", "config.accumulate"),
    *("config.pairs.batch", "config.run.preset", "config.run.model", "config.run.styles.*.name"),
    *("config.run.execution.device", "config.run.execution.memory"),
)
"""Settings that may change before a training is resumed: those that change its result by rounding only, and the names
of files, whose hashes are compared."""


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """What `config.toml` holds of a training besides its hashes.

    Attributes:
        photos: folder, table or shard.
        caption: one for all, if it was given.
        captions: the table of captions, if one was given.
        pair_folder: where the pairs are; `None` for the folder `pairs` of the training.
        start: the generator that the training goes on from, of which the folder has a copy.
        teacher: the generator that makes the pairs; `None` where runs do.
        config: the numbers, resolved.
    """

    photos: str
    caption: str | None = None
    captions: str | None = None
    pair_folder: str | None = None
    start: str | None = None
    teacher: str | None = None
    config: GeneratorTrainingConfig


GeneratorRecord = Record[GeneratorSettings]


class GeneratorFolder(RunFolder):
    """The folder of one generator's training."""

    @property
    def pairs(self) -> Path:
        """The folder of the pairs, unless they are elsewhere."""
        return self.path / "pairs"

    @property
    def samples(self) -> Path:
        """The folder of the sample sheets."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        """The folder of the generators of the last saved states."""
        return self.path / "checkpoints"

    @property
    def subfolders(self) -> tuple[Path, ...]:
        """Every folder that the training may write in this one."""
        return (*super().subfolders, self.pairs, self.samples, self.checkpoints)

    @property
    def start_file(self) -> Path:
        """A copy of the generator that the training goes on from."""
        return self.checkpoints / "start.safetensors"

    def sheet(self, steps: int) -> Path:
        """The sample sheet after so many steps."""
        return self.samples / f"step-{steps:06d}.png"

    def checkpoint(self, steps: int) -> Path:
        """The generator after so many steps."""
        return self.checkpoints / f"step-{steps:06d}.safetensors"

    def result(self, name: str) -> Path:
        """The trained generator."""
        return self.path / f"{name}.safetensors"


def step_row(step: TrainStep) -> dict[str, Any]:
    """Return a step's line of the log."""
    return asdict(step)


def curve_points(step: TrainStep) -> Mapping[str, float]:
    """Return a step's points of TensorBoard's curves."""
    named = {"loss": step.loss, "learning rate": step.learning_rate, "gradient norm": step.gradient_norm, **step.parts}
    if step.measure is not None and math.isfinite(step.measure):
        named["measure"] = step.measure
    return {f"{step.phase}/{name}": value for name, value in named.items()}
