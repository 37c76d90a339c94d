"""What a step is made of: crops of photos or pairs, with the generator's noise.

Every sample follows from seed, step and position, so that one process draws what several do, and a resumed training
what an uninterrupted one does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from stylescore.errors import PictureError
from stylescore.generators.layers import CELL
from stylescore.images.sizes import fitted_size, resize
from stylescore.training.draws import Purpose, make_generator, shuffle
from stylescore.training.generator.pairs import Pair, PairFolder, pair_noise
from stylescore.training.generator.photos import PhotoSource
from stylescore.training.pictures import load_picture

ZOOM = 1.5
"""Photos are cropped at short sides of up to so many times the crops' side."""
FIXED = torch.tensor(0.5)
MIRRORED = 0.5
"""Share of crops that are mirrored."""


@dataclass(frozen=True)
class Sample:
    """One crop.

    Attributes:
        photo: [3, size, size] in [0, 1].
        noise: of the generator, [channels, size / 8, size / 8].
        target: what the generator should make of them, [3, size, size] in [0, 1]; where there is no pair, the photo.
        caption: of the photo.
    """

    photo: Tensor
    noise: Tensor
    target: Tensor
    caption: str

    def mirrored(self) -> Sample:
        """Return the same with left and right of photo and target exchanged."""
        return replace(self, photo=self.photo.flip(-1), target=self.target.flip(-1))


@dataclass(frozen=True)
class Batch:
    """Samples side by side, and the generators of what else a step draws for each.

    Attributes:
        photo: [batch, 3, size, size].
        noise: [batch, channels, size / 8, size / 8].
        target: [batch, 3, size, size].
        captions: one a sample.
        positions: places of the samples in the whole batch of all processes.
    """

    photo: Tensor
    noise: Tensor
    target: Tensor
    captions: tuple[str, ...]
    positions: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """Return the same on a device."""
        photo, noise, target = (part.to(device) for part in (self.photo, self.noise, self.target))
        return Batch(photo, noise, target, self.captions, self.positions)


def collate(samples: Sequence[Sample], positions: Sequence[int]) -> Batch:
    """Put samples side by side."""
    return Batch(
        photo=torch.stack([sample.photo for sample in samples]),
        noise=torch.stack([sample.noise for sample in samples]),
        target=torch.stack([sample.target for sample in samples]),
        captions=tuple(sample.caption for sample in samples),
        positions=tuple(positions),
    )


class Samples(Protocol):
    """A collection of which crops are drawn."""

    def __len__(self) -> int:
        """Return how many photos or pairs it has."""
        ...

    def draw(self, index: int, rng: Generator) -> Sample:
        """Return a random crop of one of them."""
        ...

    def fixed(self, index: int, rng: Generator) -> Sample:
        """Return the middle of one of them, for measures and sheets; only its noise is drawn."""
        ...


def to_pixels(picture: Image.Image) -> Tensor:
    """Return an RGB picture as float32 [3, h, w] in [0, 1]."""
    pixels = np.array(picture, dtype=np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 255


def _place(room: int, chance: Tensor) -> int:
    """Return a whole number from 0 to `room`, by a number drawn from [0, 1)."""
    return int(float(chance) * (room + 1))


def _load_part(file: Path, pair: Pair, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of a pair's photo or picture.

    Raises:
        PictureError: it cannot be read, or has not the size of the pair.
    """
    picture = load_picture(file)
    if picture.size != (pair.width, pair.height):
        raise PictureError(
            f"{str(file)!r} is {picture.width} x {picture.height} pixels, its pair {pair.width} x {pair.height}",
            hint="remove the file and resume, and the pair is made anew",
        )
    return picture.crop(box)


@dataclass(frozen=True)
class PairSamples:
    """Crops of pairs.

    Attributes:
        folder: of the pairs.
        pairs: which of them.
        channels: of the noise field that the runs had, those of the latent.
        size: side of the crops in pixels.
        with_noise: whether the generator takes it.
        flip: whether half of the random crops are mirrored, without their noise.
    """

    folder: PairFolder
    pairs: Sequence[Pair]
    channels: int
    size: int
    with_noise: bool = True
    flip: bool = False

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def draw(self, index: int, rng: Generator) -> Sample:
        """Return a crop whose corner is that of a cell, so that its noise is a part of the pair's."""
        sample = self._crop(self.pairs[index], torch.rand(2, generator=rng))
        return sample.mirrored() if self.flip and float(torch.rand(1, generator=rng)) < MIRRORED else sample

    def fixed(self, index: int, rng: Generator) -> Sample:
        """Return the middle of a pair."""
        del rng
        return self._crop(self.pairs[index], FIXED.expand(2))

    def _crop(self, pair: Pair, chances: Tensor) -> Sample:
        side = self.size // CELL
        top, left = (
            _place(length // CELL - side, c) for length, c in zip((pair.height, pair.width), chances, strict=True)
        )
        box = (left * CELL, top * CELL, left * CELL + self.size, top * CELL + self.size)
        files = (self.folder.photo_file(pair.number), self.folder.picture_file(pair.number))
        photo, target = (to_pixels(_load_part(file, pair, box)) for file in files)
        return Sample(photo, self._noise(pair)[:, top : top + side, left : left + side], target, pair.caption)

    def _noise(self, pair: Pair) -> Tensor:
        noise = pair_noise(pair.seed, (self.channels, pair.height // CELL, pair.width // CELL))
        return noise if self.with_noise else noise[:0]


@dataclass(frozen=True)
class PhotoSamples:
    """Crops of photos without pairs, at random scales and mirrored half of the time.

    Attributes:
        source: the training's photos.
        numbers: which of them.
        channels: of the generator's noise field; 0 for none.
        size: side of the crops in pixels.
    """

    source: PhotoSource
    numbers: Sequence[int]
    channels: int
    size: int

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.numbers)

    def draw(self, index: int, rng: Generator) -> Sample:
        """Return a random crop with fresh noise."""
        mirror, zoom, *chances = torch.rand(4, generator=rng)
        return self._crop(index, rng, bool(mirror < MIRRORED), 1 + float(zoom) * (ZOOM - 1), chances)

    def fixed(self, index: int, rng: Generator) -> Sample:
        """Return the middle of a photo."""
        return self._crop(index, rng, False, 1.0, [FIXED, FIXED])

    def _crop(self, index: int, rng: Generator, mirrored: bool, zoom: float, chances: Sequence[Tensor]) -> Sample:
        picture = self.source.load(self.numbers[index])
        width, height = fitted_size(*picture.size, round(self.size * zoom), 1)
        picture = resize(picture, (width, height))
        top, left = (_place(length - self.size, c) for length, c in zip((height, width), chances, strict=True))
        part = picture.crop((left, top, left + self.size, top + self.size))
        photo = to_pixels(ImageOps.mirror(part) if mirrored else part)
        cells = self.size // CELL
        noise = torch.randn(self.channels, cells, cells, generator=rng)
        return Sample(photo, noise, photo, self.source.caption(self.numbers[index]))


@dataclass(frozen=True)
class StepBatches(Dataset[list[Batch]]):
    """This process's part of the batch of each step, in the parts that are accumulated.

    Attributes:
        samples: what is drawn.
        seed: of the training.
        phase: of the training; phases draw different crops.
        batch: samples of a step, over all processes.
        rank: number of this process.
        processes: how many there are.
        accumulate: parts of a process's samples.
    """

    samples: Samples
    seed: int
    phase: int
    batch: int
    rank: int = 0
    processes: int = 1
    accumulate: int = 1

    def __getitem__(self, step: int) -> list[Batch]:
        """Return the parts of a step, one after another."""
        share, part = self.batch // self.processes, self.batch // self.processes // self.accumulate
        first = self.rank * share
        return [self._part(step, range(start, start + part)) for start in range(first, first + share, part)]

    def _part(self, step: int, positions: Sequence[int]) -> Batch:
        members = [self._member(step * self.batch + position) for position in positions]
        rngs = [make_generator(self.seed, "crop", self.phase, step, position) for position in positions]
        return collate([self.samples.draw(m, rng) for m, rng in zip(members, rngs, strict=True)], positions)

    def _member(self, place: int) -> int:
        """Return which photo or pair has a place in the endless order; each is used once in each epoch."""
        epoch, index = divmod(place, len(self.samples))
        return _order(self.seed, epoch, len(self.samples))[index]

    def steps(self, first: int, last: int, workers: int) -> Iterator[list[Batch]]:
        """Yield the parts of each step from `first` to before `last`, loaded ahead by so many processes."""
        loader: Any = DataLoader(self, batch_size=None, sampler=range(first, last), num_workers=workers)
        yield from loader


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    """Return the order of photos or pairs in an epoch; a large collection's is not made for every sample."""
    return shuffle(seed, "order", count, epoch)


def step_generators(seed: int, purpose: Purpose, place: tuple[int, ...], positions: Sequence[int]) -> list[Generator]:
    """Return one generator for each sample of a step, for what is drawn besides its crop."""
    return [make_generator(seed, purpose, *place, position) for position in positions]
