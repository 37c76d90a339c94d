"""Keeps what networks find about pictures in files, so that an interrupted measurement goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from stylescore import metrics
from stylescore.evaluation import probes, reading
from stylescore.runs.folder import make_folder
from stylescore_apply.storage.files import atomic, sha256

if TYPE_CHECKING:
    from stylescore.metrics.accumulate import Table

_CODE = (metrics, probes, reading)
"""What reads pictures and computes rows: those of other code are not taken."""
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
        cls, folder: Path | None, name: str, weights: Sequence[str], style: Sequence[Path], *numbers: object
    ) -> KeptRows:
        """Return the rows of a network.

        Args:
            folder: of the files; `None` keeps none.
            name: of the network.
            weights: hashes of its weights.
            style: pictures of the style.
            numbers: whatever else decides what the network is shown.
        """
        if folder is None:
            return cls()
        return cls(folder, (*_code_hashes(), name, *map(str, numbers), *weights, *map(sha256, style)))

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


@cache
def _code_hashes() -> tuple[str, ...]:
    """Return the hashes of the program's files that decide the rows."""
    files = (Path(str(module.__file__)) for module in _CODE)
    return tuple(sha256(file.parent if file.stem == "__init__" else file, ["__pycache__"]) for file in files)
