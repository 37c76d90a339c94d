"""Hashes that name a model by its content, not by its place."""

from __future__ import annotations

from pathlib import Path

from stylescore.catalog.registry import resolve_model
from stylescore.storage.files import sha256


def model_hash(name: str) -> str:
    """Return the hash of a model's files, or a hub model's id, whose files belong to the hub's cache."""
    location = resolve_model(name).location
    return sha256(location) if Path(location).exists() else str(location)
