"""Reference pictures in each style, rendered from photos that no figure is computed for."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.quality.split import Photos
from stylescore_apply.storage.files import atomic, sha256

STREAM = 77
"""Seed that separates the random numbers of these renderings from those of the training pictures."""


def render(style: str, photo: np.ndarray, row: int) -> np.ndarray:
    """Render one photo (uint8) in a style, with random numbers that depend on its row alone."""
    from bundled_model.styles import RENDERERS

    drawn = RENDERERS[style](photo / 255.0, np.random.default_rng([row, STREAM]))
    return (255 * np.clip(drawn, 0, 1)).round().astype(np.uint8)


def renderer_digest(style: str, rows: Iterable[int]) -> str:
    """Return a digest of these rows and this version of the renderer, for the name of a file."""
    from bundled_model.styles import RENDERERS, common

    sources = [inspect.getsourcefile(RENDERERS[style]), inspect.getsourcefile(common)]
    facts = [*(sha256(source) for source in sources if source), *map(str, rows)]
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()[:12]


def load_style_pictures(style: str, photos: Photos, folder: Path) -> np.ndarray:
    """Return all photos in a style, from the folder if it has them, else rendered."""
    path = folder / f"{style}-{renderer_digest(style, photos.rows)}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [render(style, photo, row) for photo, row in zip(photos.pixels, photos.rows, strict=True)]
        with atomic(path) as temporary:
            np.save(temporary, np.stack(drawn))
    return np.load(path)
