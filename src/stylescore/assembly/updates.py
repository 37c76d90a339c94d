"""What a caller sees of a run in progress: an update after every iteration, and a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from stylescore.method.fit import Iteration


@dataclass(frozen=True)
class Update:
    """A run after an iteration.

    Attributes:
        iteration: what happened in it.
        total: iterations of the run.
        photos: numbers of the photos of this batch in the list that was given.
        preview: makes approximate pictures of the batch as they stand, where there is a tiny autoencoder in a
            fraction of the time of a result.
    """

    iteration: Iteration
    total: int
    photos: tuple[int, ...]
    preview: Callable[[], list[Image.Image]]

    @property
    def index(self) -> int:
        """The iteration's number, from 0."""
        return self.iteration.index

    @property
    def is_last(self) -> bool:
        """Whether the run is complete."""
        return self.index + 1 == self.total


@contextmanager
def progress_bar(total: int, label: str, *, shown: bool) -> Iterator[Callable[[], object]]:
    """Show a progress bar in a terminal or a notebook, and nowhere else; yield what advances it."""
    from tqdm import auto, std

    ipython = sys.modules.get("IPython")
    in_notebook = auto.tqdm is not std.tqdm and hasattr(ipython and ipython.get_ipython(), "kernel")
    bar = auto.tqdm(total=total, desc=label, unit="it", disable=not (shown and (in_notebook or sys.stderr.isatty())))
    try:
        yield bar.update
    finally:
        bar.close()
