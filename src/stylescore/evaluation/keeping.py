"""Keeps what networks find about pictures in files, so that an interrupted measurement goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from stylescore import __version__
from stylescore.runs.folder import make_folder
from stylescore_apply.storage.files import atomic, sha256

if TYPE_CHECKING:
    from stylescore.metrics.accumulate import Table

_KEY = 40
"""Hexadecimal digits of a file's name."""


@dataclass(frozen=True)
class KeptRows:
    """The rows that one network finds about the pictures of one evaluation, a file for each batch.

    Attributes:
        folder: of the files; `None` keeps none.
        facts: what decides the rows besides the pictures of a batch and their texts.
    """

    folder: Path | None = None
    facts: tuple[str, ...] = ()

    @classmethod
    def of_network(
        cls, folder: Path | None, name: str, weights: Sequence[Path], style: Sequence[Path], *numbers: object
    ) -> KeptRows:
        """Return the rows of a network.

        Args:
            folder: of the files; `None` keeps none.
            name: of the network.
            weights: its files or folders.
            style: pictures of the style.
            numbers: whatever else decides what the network is shown.
        """
        if folder is None:
            return cls()
        return cls(folder, (__version__, name, *map(str, numbers), *map(sha256, (*weights, *style))))

    def rows(self, pictures: Sequence[Path], texts: Sequence[str], find: Callable[[], Table]) -> Table:
        """Return the rows of a batch: those that are kept, else what `find` returns, which is kept.

        Args:
            pictures: files that the rows depend on, in order.
            texts: that they depend on too.
            find: asks the network.

        Raises:
            OutputError: a file cannot be written.
        """
        if self.folder is None:
            return find()
        lines = (*self.facts, *map(sha256, pictures), *map(repr, texts))
        key = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        file = self.folder / f"{key[:_KEY]}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError):  # there is none, or it is damaged
            return self._keep(file, find())

    def _keep(self, file: Path, found: Table) -> Table:
        rows = {name: values.detach().float().cpu().contiguous() for name, values in found.items()}
        make_folder(file.parent)
        with atomic(file) as temporary:
            temporary.write_bytes(save(rows))
        return rows
