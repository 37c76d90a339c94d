"""Random training crops from packed uint8 pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 N H W 3 to float N 3 H W in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_crop(picture: np.ndarray, side: int, shrink: float, rng: np.random.Generator) -> np.ndarray:
    """A random crop, mirrored half of the time, taken at half size with chance ``shrink``."""
    window = 2 * side if rng.random() < shrink else side
    top, left = (int(rng.integers(size - window + 1)) for size in picture.shape[:2])
    crop = picture[top : top + window, left : left + window]
    if window != side:
        crop = crop.reshape(side, 2, side, 2, 3).mean((1, 3)).round().astype(np.uint8)
    return crop[:, ::-1] if rng.random() < 0.5 else crop


class CropSource:
    """Draws batches of crops of photos and of the style pictures that exist so far."""

    def __init__(self, folder: Path, photo_rows: np.ndarray, style_share: float, seed: int) -> None:
        """Open the packed pictures in ``folder``."""
        self.folder = folder
        self.photos = np.load(folder / "photos.npy", mmap_mode="r")
        self.rows = photo_rows
        self.style_share = style_share
        self.rng = np.random.default_rng(seed)
        self.styles: list[np.ndarray] = []
        self.reload()

    def reload(self) -> None:
        """Open the style pictures that exist so far."""
        paths = sorted(self.folder.glob("style-*-[0-9][0-9].npy"))
        self.styles = [np.load(path, mmap_mode="r") for path in paths]

    def draw(self, batch: int, side: int) -> Tensor:
        """A batch of random crops in -1..1."""
        return to_tensor(np.stack([self._one(side) for _ in range(batch)]))

    def _one(self, side: int) -> np.ndarray:
        if self.styles and self.rng.random() < self.style_share:
            shelf = self.styles[self.rng.integers(len(self.styles))]
            return random_crop(shelf[self.rng.integers(len(shelf))], side, 0.15, self.rng)
        return random_crop(self.photos[self.rng.choice(self.rows)], side, 0.4, self.rng)
