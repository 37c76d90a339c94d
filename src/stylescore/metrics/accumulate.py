"""Collects what networks find about pictures, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Table = Mapping[str, Tensor]
"""Tensors by name, with one row for each picture."""


class Rows:
    """Rows of named tensors, one row for each picture, in CPU memory; how they came in batches is forgotten."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, batch: Table) -> None:
        """Append the rows of a batch."""
        for name, rows in batch.items():
            self._parts.setdefault(name, []).append(rows.detach().float().cpu())

    def tables(self) -> dict[str, Tensor]:
        """Return all rows so far, in the order in which they came."""
        return {name: torch.cat(parts) for name, parts in self._parts.items()}
