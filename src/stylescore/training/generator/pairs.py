"""Pairs of a photo and the picture that the program makes of it, with the seed that tells the noise of the run.

A run with consistent_noise = 1 draws one noise field, eps_run = N(0, 1) of the latent's shape [channels, h / 8, w / 8]:
`run_noise` of a generator with the pair's seed. This very field, unchanged, is the second input of the generator:
its noise channels are the latent's channels, its cells the latent's cells. With a smaller consistent_noise the field
tells less of the run, and what it does not tell is averaged by the regression.

A folder of pairs holds `pairs.json` (what made them), `pairs.jsonl` (one line a pair), and for each pair the photo as
the model saw it and the picture, both as lossless WebP.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, ImageOps
from torch import Tensor

from stylescore.assembly.stylizer import Stylizer
from stylescore.errors import ConfigError, OutputError
from stylescore.generators.layers import CELL
from stylescore.images import Photo
from stylescore.images.sizes import resize
from stylescore.method.fit import fit
from stylescore.method.objective import run_noise
from stylescore.storage.texts import parse_json
from stylescore.training.draws import make_seed
from stylescore.training.generator.photos import PhotoSource
from stylescore_apply.storage.files import atomic

LARGEST_SIDE = 2**16
OTHER_PAIRS = "give another --pair-folder, or remove it to make the pairs anew"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One line of `pairs.jsonl`.

    Attributes:
        number: of the pair.
        photo: number of the photo in the training's source.
        seed: of the run that made the picture.
        mirrored: whether the photo was mirrored first.
        caption: of the photo.
        width: of photo and picture, in pixels.
        height: likewise.
    """

    number: int
    photo: int
    seed: int
    mirrored: bool
    caption: str
    width: int
    height: int


def pair_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Return the noise [channels, rows, columns] of the run that made a pair."""
    rng = [torch.Generator().manual_seed(seed)]
    return run_noise(torch.empty(1, *shape), rng)[0]


@dataclass(frozen=True)
class PairFolder:
    """A folder of pairs."""

    path: Path

    @property
    def record_file(self) -> Path:
        """What made the pairs, as JSON."""
        return self.path / "pairs.json"

    @property
    def log_file(self) -> Path:
        """One line for each pair."""
        return self.path / "pairs.jsonl"

    def photo_file(self, number: int) -> Path:
        """The photo of a pair as the model saw it."""
        return self.path / f"{number:06d}-photo.webp"

    def picture_file(self, number: int) -> Path:
        """The picture of a pair."""
        return self.path / f"{number:06d}-picture.webp"

    def prepare(self, record: Mapping[str, Any]) -> None:
        """Make the folder, or check that its pairs were made by the same model, style and settings.

        Raises:
            ConfigError: they were not.
            OutputError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{str(self.path)!r} cannot be written: {error.strerror or error}", hint="choose another folder"
            ) from error
        if self.record_file.is_file():
            self._require_same(record)
            return
        with atomic(self.record_file) as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _require_same(self, record: Mapping[str, Any]) -> None:
        try:
            before = parse_json(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the record {str(self.record_file)!r} is damaged: {error}", hint=OTHER_PAIRS) from error
        now = json.loads(json.dumps(record))
        changed = [name for name in now if not isinstance(before, Mapping) or before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"the pairs in {str(self.path)!r} were made with another {', '.join(changed)}", hint=OTHER_PAIRS
            )

    def read(self) -> dict[int, Pair]:
        """Return the pairs that are there, by their numbers; the line that a killed process began is left out."""
        try:
            lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return {}
        rows = (line for line in lines if line.startswith("{"))
        pairs = [pair for line in rows if (pair := _parse_pair(line)) is not None]
        return {pair.number: pair for pair in pairs if self.picture_file(pair.number).is_file()}

    def write(self, pair: Pair, photo: Image.Image, picture: Image.Image) -> None:
        """Write a pair's pictures, then its line."""
        for image, path in ((photo, self.photo_file(pair.number)), (picture, self.picture_file(pair.number))):
            with atomic(path) as temporary:
                image.save(temporary, format="WEBP", lossless=True)
        with self.log_file.open("ab") as file:
            if file.tell() and not self._ends_with_newline():
                file.write(b"\n")
            file.write((json.dumps(asdict(pair)) + "\n").encode())

    def _ends_with_newline(self) -> bool:
        with self.log_file.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"


def _parse_pair(line: str) -> Pair | None:
    """Return the pair of a line, or `None` if it is none, such as the last line of a killed process."""
    try:
        pair = Pair(**parse_json(line))
    except (ValueError, TypeError):
        return None
    return pair if _is_whole(pair) else None


def _is_whole(pair: Pair) -> bool:
    """Return whether a pair's values can be those of a pair."""
    numbers = (pair.number, pair.photo, pair.seed, pair.width, pair.height)
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        return False
    sides = all(0 < side <= LARGEST_SIDE and side % CELL == 0 for side in (pair.width, pair.height))
    return sides and isinstance(pair.mirrored, bool) and isinstance(pair.caption, str)


class Painter(Protocol):
    """What makes the pictures of pairs."""

    def paint(self, photos: Sequence[Photo], plans: Sequence[Pair]) -> list[Image.Image]:
        """Return the pictures of photos of one size, each with the caption, and the noise of the seed, of its pair."""
        ...


@dataclass(frozen=True)
class RunPainter:
    """Stylizes photos of one size in one run.

    Attributes:
        stylizer: whose runs have one fixed noise each.
    """

    stylizer: Stylizer

    def paint(self, photos: Sequence[Photo], plans: Sequence[Pair]) -> list[Image.Image]:
        """Return the pictures at the ends of the runs."""
        captions, seeds = [plan.caption for plan in plans], [plan.seed for plan in plans]
        fitting = self.stylizer.start(photos, captions=captions, seeds=seeds)
        for _ in fit(fitting):
            pass
        return [self.stylizer.picture(fitting, index) for index in range(len(photos))]


@dataclass(frozen=True)
class PairMaker:
    """Makes the pairs of a training.

    Attributes:
        painter: of the pictures.
        stylizer: tells the size of photos.
        photos: the training's.
        held_out: numbers of the photos that are not trained on; the first pairs are theirs.
        trained: numbers of the others, in the order of the pairs; after the last one, the first follows mirrored.
        seed: of the training.
    """

    painter: Painter
    stylizer: Stylizer
    photos: PhotoSource
    held_out: Sequence[int]
    trained: Sequence[int]
    seed: int

    def plan(self, number: int) -> Pair:
        """Return what a pair will be, but for its size."""
        turn, place = divmod(number - len(self.held_out), len(self.trained))
        photo = self.trained[place] if turn >= 0 else self.held_out[number]
        return Pair(
            number=number,
            photo=photo,
            seed=make_seed(self.seed, "pair", number),
            mirrored=turn > 0 and turn % 2 == 1,
            caption=self.photos.caption(photo),
            width=0,
            height=0,
        )

    def make(self, folder: PairFolder, batches: Iterable[Sequence[int]], missing: Container[int]) -> Iterator[Pair]:
        """Make the missing pairs of batches, neighbours of one size together, and yield each when it is written.

        A run's rounding depends on what is beside it. So pairs that are there are made once more, and not written,
        where one is missing that was made with them: a picture does not tell where the process was killed before.
        """
        for numbers in batches:
            plans = [self.plan(number) for number in numbers]
            photos = [self._photo(plan) for plan in plans]
            for group in self.stylizer.split(photos, len(plans), [plan.caption for plan in plans]):
                if any(plans[n].number in missing for n in group):
                    yield from self._make_together(
                        folder, [plans[n] for n in group], [photos[n] for n in group], missing
                    )

    def _photo(self, plan: Pair) -> Photo:
        picture = self.photos.load(plan.photo)
        return Photo(Path(self.photos.name(plan.photo)), ImageOps.mirror(picture) if plan.mirrored else picture)

    def _make_together(
        self, folder: PairFolder, plans: Sequence[Pair], photos: Sequence[Photo], missing: Container[int]
    ) -> list[Pair]:
        """Make the pictures of photos of one size, and write those that are missing."""
        width, height = self.stylizer.working_size(photos[0])
        small = [Photo(photo.path, resize(photo.picture, (width, height))) for photo in photos]
        pairs = [replace(plan, width=width, height=height) for plan in plans]
        made = zip(pairs, small, self.painter.paint(small, pairs), strict=True)
        wanted = [each for each in made if each[0].number in missing]
        for pair, photo, picture in wanted:
            folder.write(pair, photo.picture, picture)
        return [pair for pair, _, _ in wanted]
