"""The names of a run, resolved once: where its models and style adapters are, and the hashes that identify them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stylescore.catalog.registry import (
    ModelSource,
    StyleSource,
    resolve_model,
    resolve_preview_model,
    resolve_style,
)
from stylescore.config.run import RunConfig
from stylescore_apply.storage.files import sha256


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the names of a run stand for.

    Attributes:
        model: base of the fake and real scores.
        style_model: base under the style adapters; `None` shares `model`.
        preview_model: tiny autoencoder of the previews, if one is named.
        styles: files of the style adapters, in the run's order.
    """

    model: ModelSource
    style_model: ModelSource | None
    preview_model: ModelSource | None
    styles: tuple[StyleSource, ...]

    def apply(self, run: RunConfig) -> RunConfig:
        """Return the run with names that mean the same in any working folder."""
        styles = zip(run.styles, self.styles, strict=True)
        return replace(
            run,
            model=self.model.reference,
            style_model=None if self.style_model is None else self.style_model.reference,
            preview_model=None if self.preview_model is None else self.preview_model.reference,
            styles=tuple(replace(choice, name=source.reference) for choice, source in styles),
        )

    @property
    def hashes(self) -> dict[str, Any]:
        """The hashes of models and adapters, as a run's record names them."""
        return {
            "model_sha256": model_hash(self.model),
            "style_model_sha256": "" if self.style_model is None else model_hash(self.style_model),
            "style_sha256": tuple(sha256(style.path) for style in self.styles),
        }


def resolve_sources(run: RunConfig) -> Sources:
    """Resolve all names of a run; a hub style is fetched, a hub model is not fetched yet.

    Raises:
        InputError: a name stands for nothing.
    """
    return Sources(
        model=resolve_model(run.model),
        style_model=None if run.style_model is None else resolve_model(run.style_model),
        preview_model=None if run.preview_model is None else resolve_preview_model(run.preview_model),
        styles=tuple(resolve_style(style.name) for style in run.styles),
    )


def model_hash(source: ModelSource) -> str:
    """Return the hash of a model's files, or a hub model's id, whose files belong to the hub's cache."""
    return sha256(source.location) if Path(source.location).exists() else str(source.location)
