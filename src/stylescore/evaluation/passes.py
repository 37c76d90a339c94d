"""Passes of one network over the pictures of evaluations, in which every photo is read and seen once.

Photos are taken a batch at a time, with their results in all folders. So the features of one batch are held at once,
however many photos, folders and evaluations there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stylescore.errors import PictureError, StylescoreError, memory_limit
from stylescore.evaluation.pairs import Pair
from stylescore.evaluation.reading import Stylized, in_batches, read_source, read_style, read_stylized
from stylescore.metrics.accumulate import Rows, Table

if TYPE_CHECKING:
    from stylescore.evaluation.keeping import KeptRows
    from stylescore.evaluation.probes import Probe, Texts
    from stylescore.evaluation.run import Request


class RefusalError(Exception):
    """A network that cannot be used for these pictures; others go on."""

    def __init__(self, error: StylescoreError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def refusals() -> Iterator[None]:
    """Let a network's refusal of a picture end that network only; what needs too much memory ends everything."""
    try:
        with memory_limit("measuring pictures"):
            yield
    except PictureError as error:
        raise RefusalError(error) from error


class SourceFeatures:
    """What a network finds about photos, each computed once for the size of its results."""

    def __init__(self, probe: Probe, device: torch.device) -> None:
        self._probe, self._device = probe, device
        self._blocks: list[Table] = []
        self._places: dict[tuple[Path, tuple[int, int]], tuple[int, int]] = {}

    def of(self, results: Sequence[Stylized]) -> Table:
        """Return the rows of the photos of results that are compared at one size.

        Raises:
            PictureError: a photo cannot be read, or has another shape than its result.
            RefusalError: the network cannot be used for a photo.
        """
        keys = [(result.pair.source, result.size) for result in results]
        new = {key: result for key, result in zip(keys, results, strict=True) if key not in self._places}
        if new:
            pictures = torch.cat([read_source(result) for result in new.values()])
            with refusals():
                block = self._probe.source(pictures.to(self._device))
            self._places |= {key: (len(self._blocks), row) for row, key in enumerate(new)}
            self._blocks.append(block)
        return self._rows([self._places[key] for key in keys])

    def _rows(self, places: Sequence[tuple[int, int]]) -> Table:
        first = self._blocks[places[0][0]]
        if places == [(places[0][0], row) for row in range(_length(first))]:
            return first
        return {name: torch.stack([self._blocks[block][name][row] for block, row in places]) for name in first}


def _length(table: Table) -> int:
    return len(next(iter(table.values()), ()))


class Pass:
    """One network's pass over the pictures of an evaluation: first those of the style, then the pairs, photo by photo.

    The network is not asked for rows that are kept. It may remember pictures of the style: those with kept rows are
    shown to it before the first pair that it is asked about.

    Attributes:
        style: rows of the pictures of the style.
        pairs: rows of the pairs, by folder.
    """

    def __init__(self, request: Request, probe: Probe, kept: KeptRows) -> None:
        self.request = request
        self.style, self.pairs = Rows(), {folder: Rows() for folder in request.folders}
        self._probe, self._kept = probe.for_style(len(request.style)), kept
        self._unseen: list[list[Path]] = []
        self._of_photo = {folder: _by_photo(pairing.pairs) for folder, pairing in request.folders.items()}

    def see_style(self) -> Iterator[int]:
        """Take the pictures of the style; yield the number of each batch.

        Raises:
            PictureError: a picture cannot be read.
            RefusalError: the network cannot be used for a picture.
        """
        pictures = ((read_style(path, self.request.size).shape, path) for path in self.request.style)
        for batch in in_batches(pictures, self.request.batch, key=lambda entry: entry[0]):
            paths = [path for _, path in batch]
            self._unseen.append(paths)
            self.style.add(self._kept.rows(paths, (), self._show_style))
            yield len(batch)

    def _show_style(self) -> Table:
        """Show the network the pictures of the style that it has not seen, and return the rows of the last batch."""
        rows: Table = {}
        for paths in self._unseen:
            pictures = torch.cat([read_style(path, self.request.size) for path in paths])
            with refusals():
                rows = self._probe.style(pictures.to(self.request.device))
        self._unseen = []
        return rows

    def see_pairs(self, photos: Sequence[Path], sources: SourceFeatures) -> Iterator[int]:
        """Take the results of some photos in all folders; yield the number of each batch.

        Raises:
            PictureError: a picture cannot be read, or is another part of its photo.
            RefusalError: the network cannot be used for a picture.
        """
        for folder, of_photo in self._of_photo.items():
            pairs = [pair for photo in photos for pair in of_photo.get(photo, ())]
            results = (read_stylized(pair, self.request.size) for pair in pairs)
            for batch in in_batches(results, self.request.batch, key=lambda result: result.size):
                texts = self.request.prompts.of([result.pair for result in batch])
                files = [path for result in batch for path in (result.pair.source, result.pair.stylized)]
                see = partial(self._see_batch, batch, texts, sources)
                self.pairs[folder].add(self._kept.rows(files, (*texts.before, *texts.after), see))
                yield len(batch)

    def _see_batch(self, batch: Sequence[Stylized], texts: Texts, sources: SourceFeatures) -> Table:
        """Show the network results of one size, and return their rows."""
        self._show_style()
        source, stylized = sources.of(batch), torch.cat([result.picture for result in batch])
        with refusals():
            return self._probe.pair(source, stylized.to(self.request.device), texts)


def _by_photo(pairs: Sequence[Pair]) -> dict[Path, list[Pair]]:
    found: dict[Path, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair.source, []).append(pair)
    return found


def batches_of_photos(requests: Sequence[Request]) -> list[list[Path]]:
    """Return the photos of some evaluations by name, in groups of as many as go through a network at once."""
    pairs = (pair for request in requests for pairing in request.folders.values() for pair in pairing.pairs)
    photos = [source for _, source in sorted({(pair.name, pair.source) for pair in pairs})]
    most = min(request.batch for request in requests)
    return [photos[start : start + most] for start in range(0, len(photos), most)]
