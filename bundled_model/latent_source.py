"""Random batches of latents and their prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class LatentSource:
    """Draws latent crops with token numbers, a fixed fraction of them from style pictures."""

    def __init__(self, data: Path, style_share: float, seed: int, device: str = "cpu") -> None:
        """Load the latents of all photos and of every style into the device's memory."""
        self.data, self.style_share, self.device = data, style_share, device
        self.rng = np.random.default_rng(seed)
        self.scale = json.loads((data / "scaling.json").read_text(encoding="utf-8"))["scaling_factor"]
        self.read: list[Path] = []
        self.reload()

    def reload(self) -> None:
        """Load the files again if there are more than before."""
        paths = sorted(self.data.glob("latents-*.npy"), key=lambda path: (_is_style(path), path.name))
        if paths == self.read:
            return
        self.read = paths
        shelves = [torch.from_numpy(np.load(path)) for path in paths]
        self.photos = sum(len(shelf) for shelf, path in zip(shelves, paths, strict=True) if not _is_style(path))
        self.latents = torch.cat(shelves).to(self.device)
        names = [path.name.replace("latents-", "tokens-") for path in paths]
        self.tokens = torch.from_numpy(np.concatenate([np.load(self.data / name) for name in names]).astype(np.int64))

    def draw(self, batch: int, side: int) -> tuple[Tensor, Tensor]:
        """Scaled latent crops and token numbers."""
        styled = self.rng.random(batch) < self.style_share
        first, end = np.where(styled, self.photos, 0), np.where(styled, len(self.latents), self.photos)
        rows = torch.from_numpy(self.rng.integers(first, end))
        corners = torch.from_numpy(self.rng.integers(self.latents.shape[-1] - side + 1, size=(2, batch, 1)))
        top, left = (corners + torch.arange(side)).to(self.device)
        channels = torch.arange(self.latents.shape[1], device=self.device)
        places = rows.to(self.device)[:, None, None, None], channels[:, None, None], top[:, None, :, None]
        latents = self.latents[(*places, left[:, None, None, :])].float() * self.scale
        prompts = torch.from_numpy(self.rng.integers(self.tokens.shape[1], size=batch))
        return latents, self.tokens[rows, prompts].to(self.device)


def _is_style(path: Path) -> bool:
    return path.name.startswith("latents-style-")
