"""One-step generators in a benchmark: their pictures of the photos, in folders like those of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stylescore.assembly.one_step import OneStepNetwork, open_network
from stylescore.catalog.registry import resolve_model
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, MemoryLimitError, ModelError, PictureError, StylescoreError
from stylescore.generators.files import read_facts
from stylescore.images import read_photo, save_png
from stylescore.method.scores import PassCounter
from stylescore.runs.costs import Cost, Meter, read_cost, write_cost
from stylescore.runs.job import PictureFolder, Task
from stylescore.runs.record import Record, read_record, replace_record
from stylescore_apply.names import ENDING
from stylescore_apply.networks import Array, Facts, Network
from stylescore_apply.storage.files import sha256
from stylescore_apply.stylizing import Settings, stylize

COMMAND = "apply"


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """What `config.toml` holds of a generator's picture besides its hashes.

    Attributes:
        photo: path of the photo.
        generator: path of the generator's file.
        seed: of its noise.
    """

    photo: str
    generator: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What became of a photo.

    Attributes:
        photo: path of the photo.
        folder: of its picture.
        hashes: of photo and generator.
        error: why there is no picture, or `None`.
    """

    photo: Path
    folder: PictureFolder
    hashes: Mapping[str, str] = field(default_factory=dict)
    error: StylescoreError | None = None

    @property
    def cost(self) -> Cost | None:
        """What the picture cost."""
        return read_cost(self.folder.path)


class _Counted:
    """A network that counts its pictures, of a large photo its tiles."""

    def __init__(self, network: Network, counter: PassCounter) -> None:
        self._network, self._counter = network, counter

    @property
    def facts(self) -> Facts:
        return self._network.facts

    def __call__(self, photo: Array, noise: Array | None) -> Array:
        self._counter.forward += len(photo)
        return self._network(photo, noise)


def open_generator(file: Path, run: RunConfig, note: Callable[[str], None]) -> Network:
    """Load a generator; a LoRA whose base model is not found by its name is put on the model of the runs.

    Args:
        file: an ONNX file, or a generator.
        run: names model and device.
        note: is called with what a user should know.

    Raises:
        ConfigError: the extra `export` is needed and not installed.
        ModelError: it cannot be used, or the model does not fit it.
        StyleError: the LoRA cannot be used.
    """
    return open_network(file, _other_base(file, run), run.execution.device, note=note)


def _other_base(file: Path, run: RunConfig) -> str | None:
    """Return the model of the runs for a LoRA whose own base model is not found."""
    facts = None if file.suffix == ENDING else read_facts(file)
    if facts is None or not facts.is_lora:
        return None
    try:
        resolve_model(facts.base)
    except ModelError:
        return run.model
    return None


def apply_to_photos(network: Network, generator: Path, tasks: Sequence[Task], seed: int) -> Iterator[Applied]:
    """Apply a generator to photos, and yield what became of each; pictures that are there are left.

    A picture is made again if the photo, the generator or the seed is another one.

    Args:
        network: the loaded generator.
        generator: its file.
        tasks: the photos, with the parents of their folders.
        seed: of the noise.
    """
    digest = sha256(generator)
    for task in tasks:
        folder = PictureFolder(task.parent / task.photo.stem)
        try:
            hashes = {"photo": sha256(task.photo), "generator": digest}
            settings = GeneratorSettings(photo=str(task.photo.resolve()), generator=str(generator.resolve()), seed=seed)
            _make_if_missing(network, folder, Record(command=COMMAND, hashes=hashes, settings=settings))
        except (PictureError, MemoryLimitError) as error:
            yield Applied(photo=task.photo, folder=folder, error=error)
        else:
            yield Applied(photo=task.photo, folder=folder, hashes=hashes)


def _make_if_missing(network: Network, folder: PictureFolder, record: Record[GeneratorSettings]) -> None:
    if _is_made(folder, record):
        return
    photo = read_photo(Path(record.settings.photo)).picture
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.clear()
    replace_record(folder, record)
    counter = PassCounter()
    meter = Meter(_device(network), counter)
    picture = stylize(_Counted(network, counter), np.asarray(photo), Settings(seed=record.settings.seed))
    write_cost(folder.path, meter.read(1))
    save_png(Image.fromarray(picture), folder.picture)


def _is_made(folder: PictureFolder, record: Record[GeneratorSettings]) -> bool:
    """Return whether a folder holds the picture of a record; files may have moved, but not changed."""
    if not folder.picture.is_file():
        return False
    try:
        found = read_record(folder, COMMAND, GeneratorSettings)
    except ConfigError:
        return False
    return (found.hashes, found.settings.seed) == (record.hashes, record.settings.seed)


def _device(network: Network) -> torch.device:
    """Return where a network computes: files in ONNX run on the CPU."""
    return network.stylizer.device if isinstance(network, OneStepNetwork) else torch.device("cpu")
