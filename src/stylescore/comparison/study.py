"""A study: which pictures are shown beside each other, to whom and in which order. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from stylescore.config.ranges import LARGEST_COUNT, NOT_NEGATIVE, SEED, check_number
from stylescore.errors import ConfigError, PictureError
from stylescore.evaluation.pairs import Result, make_pairs

QUESTIONS: Mapping[str, str] = {
    "style": "Which one shows the style better?",
    "content": "Which one keeps the photo's content better?",
    "overall": "Which one do you prefer overall?",
}
"""The questions of the paper's user study."""


@dataclass(frozen=True)
class Task:
    """Two pictures of one photo beside each other.

    Attributes:
        photo: base name of the photo.
        left: the method whose picture is on the left.
        right: that on the right.
    """

    photo: str
    left: str
    right: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared.

    Attributes:
        results: pictures by method and base name of the photo.
        photos: the photos by base name; empty if they are not shown.
        questions: names from `QUESTIONS`.
        style: a picture in the style, shown as an example, or `None`.
        seed: of the orders.
        most: number of comparisons for each voter; 0 for all.
    """

    results: Mapping[str, Mapping[str, Path]]
    photos: Mapping[str, Path]
    questions: tuple[str, ...]
    style: Path | None = None
    seed: int = 0
    most: int = 0

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods."""
        return tuple(self.results)

    def pairs(self) -> list[tuple[str, str, str]]:
        """Return every photo with every two methods that have a picture of it, in a fixed order."""
        names = sorted({photo for pictures in self.results.values() for photo in pictures})
        return [
            (photo, first, second)
            for photo in names
            for first, second in combinations([m for m in self.methods if photo in self.results[m]], 2)
        ]

    def tasks(self, voter: str) -> list[Task]:
        """Return a voter's comparisons in their order, with sides drawn at random; always the same for a voter."""
        rng = np.random.default_rng([self.seed, *voter.encode()])
        pairs = self.pairs()
        order = rng.permutation(len(pairs))[: self.most or len(pairs)]
        flips = rng.integers(2, size=len(order))
        return [_task(pairs[n], flip=bool(flip)) for n, flip in zip(order, flips, strict=True)]


def _task(pair: tuple[str, str, str], *, flip: bool) -> Task:
    photo, first, second = pair
    return Task(photo, second, first) if flip else Task(photo, first, second)


def make_study(
    folders: Mapping[str, Sequence[Result]],
    photos: Sequence[Path],
    *,
    questions: Sequence[str] = tuple(QUESTIONS),
    style: Path | None = None,
    seed: int = 0,
    most: int = 0,
) -> Study:
    """Match the pictures of all folders.

    Args:
        folders: results by method.
        photos: the photos that they were made from; without them, results of equal names belong together.
        questions: names from `QUESTIONS`.
        style: a picture in the style.
        seed: of the orders.
        most: comparisons for each voter; 0 for all.

    Raises:
        ConfigError: there are fewer than two folders, no or unknown questions, or a number is out of range.
        PictureError: a folder has two pictures of one photo, or no photo has two pictures.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs at least two folders, got {len(folders)}", hint="stylescore compare A B")
    if not questions or not set(questions) <= QUESTIONS.keys() or len(set(questions)) < len(questions):
        raise ConfigError(
            f"questions must be of {', '.join(QUESTIONS)}, not {', '.join(questions) or 'none'}",
            hint="for example --questions style,content",
        )
    check_number("--pairs", most, NOT_NEGATIVE.at_most(LARGEST_COUNT))
    check_number("--seed", seed, SEED)
    results = {name: _by_photo(name, found, photos) for name, found in folders.items()}
    by_name = {path.stem: path for path in photos}
    study = Study(results=results, photos=by_name, questions=tuple(questions), style=style, seed=seed, most=most)
    if not study.pairs():
        raise PictureError(
            "no photo has a picture in two of the folders",
            hint="give --source PHOTOS, or name pictures after their photos",
        )
    return study


def _by_photo(name: str, results: Sequence[Result], photos: Sequence[Path]) -> dict[str, Path]:
    if photos:
        named = [(pair.name, pair.stylized) for pair in make_pairs(photos, results).pairs]
    else:
        named = [(result.photo or result.name, result.path) for result in results]
    found: dict[str, Path] = {}
    for photo, path in named:
        if photo in found:
            raise PictureError(
                f"{name!r} has two pictures of {photo!r}: {found[photo].name!r} and {path.name!r}",
                hint="give one folder for each method",
            )
        found[photo] = path
    return found
