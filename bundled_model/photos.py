"""Read the photo folder: names, captions, the held-out split and square pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HELD_OUT_EVERY = 20
SIDE = 256


@dataclass(frozen=True)
class Photo:
    """One line of ``photos.csv``."""

    name: str
    caption: str
    licence: str

    @property
    def folder(self) -> str:
        """The source the photo comes from, which is its folder's name."""
        return self.name.split("/")[0]


def read_list(folder: Path) -> list[Photo]:
    """Read ``photos.csv``, which lies beside the ``photos`` folder or in it."""
    path = folder / "photos.csv"
    if not path.exists():
        path = folder.parent / "photos.csv"
    with path.open(newline="", encoding="utf-8") as lines:
        return [Photo(row["file"], row["caption"], row["licence"]) for row in csv.DictReader(lines)]


def held_out_mask(count: int) -> np.ndarray:
    """Mark every twentieth photo: no stage ever trains on those."""
    return np.arange(count) % HELD_OUT_EVERY == 0


def load_square(path: Path, side: int = SIDE) -> np.ndarray:
    """Load one photo as a centred square of ``side`` pixels, uint8 RGB."""
    with Image.open(path) as picture:
        square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
    return np.asarray(square)


def photo_folder(folder: Path) -> Path:
    """Accept both the folder of photos and the folder that holds it."""
    return folder / "photos" if (folder / "photos").is_dir() else folder
