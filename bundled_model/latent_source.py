"""Random batches of latents and their prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Shelf = tuple[np.ndarray, np.ndarray]


class LatentSource:
    """Draws latent crops with token numbers, a fixed fraction of them from style pictures."""

    def __init__(self, data: Path, style_share: float, seed: int) -> None:
        """Open the latents of all photos and of every style."""
        self.rng = np.random.default_rng(seed)
        self.style_share = style_share
        self.scale = json.loads((data / "scaling.json").read_text(encoding="utf-8"))["scaling_factor"]
        self.photos = [_shelf(data, name) for name in ("photos", "mirrored")]
        parts = sorted(data.glob("latents-style-*-[0-9][0-9].npy"))
        self.styles = [_shelf(data, path.stem[len("latents-") :]) for path in parts]

    def draw(self, batch: int, side: int) -> tuple[Tensor, Tensor]:
        """Scaled latent crops and token numbers."""
        pairs = [self._one(side) for _ in range(batch)]
        latents = torch.from_numpy(np.stack([latent for latent, _ in pairs])).float() * self.scale
        return latents, torch.from_numpy(np.stack([tokens for _, tokens in pairs]).astype(np.int64))

    def _one(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        shelves = self.styles if self.rng.random() < self.style_share else self.photos
        latents, tokens = shelves[self.rng.integers(len(shelves))]
        row = self.rng.integers(len(latents))
        top, left = self.rng.integers(latents.shape[-1] - side + 1, size=2)
        return latents[row, :, top : top + side, left : left + side], tokens[row, self.rng.integers(tokens.shape[1])]


def _shelf(data: Path, name: str) -> Shelf:
    return np.load(data / f"latents-{name}.npy", mmap_mode="r"), np.load(data / f"tokens-{name}.npy")
