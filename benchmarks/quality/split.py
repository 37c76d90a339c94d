"""Splits the held-out photos into three disjoint parts, always the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"test": 40, "validation": 24}
"""Number of photos of each part, in order; "reference" has the rest."""


@dataclass(frozen=True)
class Photos:
    """Photos of one part.

    Attributes:
        rows: their indices among all photos.
        captions: one for each photo.
        pixels: uint8, [photos, height, width, 3].
    """

    rows: tuple[int, ...]
    captions: tuple[str, ...]
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


def _interleave(records: Sequence[dict[str, Any]]) -> list[int]:
    """Return the rows of the held-out photos, alternating between folders, shuffled within each folder."""
    piles = []
    for folder in sorted({record["folder"] for record in records}):
        held = [row for row, record in enumerate(records) if record["held_out"] and record["folder"] == folder]
        piles.append(np.random.default_rng(list(folder.encode())).permutation(held).tolist())
    alternating = chain.from_iterable(zip_longest(*piles))
    return [row for row in alternating if row is not None]


def split_rows(records: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the rows of every part."""
    rows = _interleave(records)
    found = {}
    for part, size in SIZES.items():
        found[part], rows = rows[:size], rows[size:]
    return {**found, "reference": rows}


def read_part(data: Path, part: str, count: int) -> Photos:
    """Return the first `count` photos of a part from the folder that `bundled_model.prepare` wrote."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    rows = split_rows(records)[part][:count]
    pixels = np.load(data / "photos.npy", mmap_mode="r")[rows]
    return Photos(tuple(rows), tuple(f"a photo of {records[row]['thing']}" for row in rows), pixels)
