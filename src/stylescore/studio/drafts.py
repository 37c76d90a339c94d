"""Drafts: what a trained generator makes of a photo, shown as a run begins.

An exported generator is `NAME.onnx` beside the styles, for the style NAME. It is computed with onnxruntime, without
torch, by the server. One that is a LoRA is computed by the worker, on the model that the run has loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from stylescore.catalog.registry import BUNDLED_MODELS, generator_dirs, user_styles_dir
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import StoredPhoto, UnknownError
from stylescore.studio.uploads import view_of
from stylescore_apply.names import known_networks
from stylescore_apply.storage.files import atomic

if TYPE_CHECKING:
    from stylescore_apply import Network, OnnxNetwork

LARGEST_SIDE = 768
"""Longest side in pixels of a draft: one forward pass of that size takes about a second on two cores."""


class Drafts:
    """Makes drafts, one at a time, and keeps the generator that was used last loaded."""

    def __init__(self, folder: StudioFolder, places: Sequence[Path] = (), *, model: str = "mini") -> None:
        """Name the folders in which generators are looked for besides the usual ones, as for `StyleList`."""
        self._folder = folder
        usual = generator_dirs() if model in BUNDLED_MODELS else (user_styles_dir(),)
        self._places = (*usual, *(place for place in places if place.is_dir()))
        self._lock = threading.Lock()
        self._loaded: tuple[Path, int, OnnxNetwork] | None = None

    def versions(self) -> dict[str, int]:
        """Return the styles that have a generator, with the time of its file; none without onnxruntime."""
        networks = known_networks(self._places) if find_spec("onnxruntime") else {}
        return {name: int(path.stat().st_mtime) for name, path in networks.items()}

    def draft(self, photo: StoredPhoto, style: str) -> Path:
        """Return the file of a draft, made if it is not there yet.

        Raises:
            UnknownError: the style has no generator.
            ModelError: its file cannot be used.
        """
        changed = self.versions().get(style)
        if changed is None:
            raise UnknownError(f"the style {style[:80]!r} has no generator", hint="the run needs none")
        generator = known_networks(self._places)[style]
        target = self._folder.photo(photo.id) / f"draft-{style}-{changed}.webp"
        with self._lock:
            if not target.is_file():
                with Image.open(view_of(self._folder.photo(photo.id))) as view:
                    save_draft(self._load(generator, changed), view.convert("RGB"), target)
        return target

    def _load(self, generator: Path, changed: int) -> OnnxNetwork:
        from stylescore_apply import OnnxNetwork

        if self._loaded is None or self._loaded[:2] != (generator, changed):
            self._loaded = (generator, changed, OnnxNetwork(generator))
        return self._loaded[2]


def save_draft(network: Network, photo: Image.Image, target: Path) -> None:
    """Write what a generator makes of a photo, an RGB picture of at most `LARGEST_SIDE`.

    Raises:
        InputError: there is not enough memory for it, or the file cannot be written.
    """
    import numpy as np

    from stylescore_apply import Settings, stylize

    small = photo.copy()
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    made = Image.fromarray(stylize(network, np.asarray(small), Settings()))
    with atomic(target) as temporary:
        made.save(temporary, format="WEBP", quality=85)
