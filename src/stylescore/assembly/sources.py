"""The names of a run, resolved once: where its models and style adapters are, and the hashes that identify them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from stylescore.catalog.places import PLACES, Found, how_to_get, locate
from stylescore.catalog.registry import (
    ModelSource,
    StyleSource,
    resolve_control_model,
    resolve_embedding,
    resolve_model,
    resolve_preview_model,
    resolve_style,
    resolve_text_encoders,
    resolve_vae,
)
from stylescore.config.run import RunConfig
from stylescore.errors import ModelError, PictureError, quote
from stylescore.storage.texts import is_file, user_path
from stylescore_apply.storage.files import sha256

BESIDE_MODEL = ("styles", "generators", "README.md", "MODEL_CARD.md", "STYLES.md", "LICENSE")
"""What may stand in a model's folder without being a part of the model."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the names of a run stand for.

    Attributes:
        model: base of the fake and real scores.
        style_model: base under the style adapters; `None` shares `model`.
        preview_model: tiny autoencoder of the previews, if one is named.
        vae: autoencoder in place of the models' own, if one is named.
        text_encoders: model whose text encoders are used in place of the models' own, if one is named.
        styles: files of the style adapters, in the run's order.
        control_model: the ControlNet, if one is named.
        style_image: the picture in the style, if the method takes one.
        embeddings: files of the textual inversion embeddings, in the run's order.
        weights: of networks that are no diffusion models, by name; those that the run names or that were found.
        loads_model: whether the method loads the model.
    """

    model: ModelSource
    style_model: ModelSource | None
    preview_model: ModelSource | None
    vae: ModelSource | None
    text_encoders: ModelSource | None
    styles: tuple[StyleSource, ...]
    embeddings: tuple[Path, ...] = ()
    control_model: ModelSource | None = None
    style_image: Path | None = None
    weights: Mapping[str, Found] = field(default_factory=dict)
    loads_model: bool = True

    def apply(self, run: RunConfig) -> RunConfig:
        """Return the run with names that mean the same in any working folder."""
        styles = zip(run.styles, self.styles, strict=True)
        return replace(
            run,
            model=self.model.reference,
            style_model=None if self.style_model is None else self.style_model.reference,
            preview_model=None if self.preview_model is None else self.preview_model.reference,
            vae=None if self.vae is None else self.vae.reference,
            text_encoders=None if self.text_encoders is None else self.text_encoders.reference,
            control_model=None if self.control_model is None else self.control_model.reference,
            style_image=None if self.style_image is None else str(self.style_image.absolute()),
            weights=tuple(replace(choice, file=_reference(self.weights[choice.network])) for choice in run.weights),
            styles=tuple(replace(choice, name=source.reference) for choice, source in styles),
            embeddings=tuple(
                replace(choice, file=str(path.absolute()))
                for choice, path in zip(run.embeddings, self.embeddings, strict=True)
            ),
        )

    def with_run(self, run: RunConfig) -> Sources:
        """Return the sources of another run on the same networks; what these were loaded from is not looked up again.

        Raises:
            InputError: the preview model or the picture in the style is missing.
        """
        return replace(self, preview_model=_preview_model(run), style_image=_style_image(run))

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """The hashes of models and adapters, as a run's record names them."""
        return {
            "model_sha256": model_hash(self.model) if self.loads_model else "",
            "style_model_sha256": "" if self.style_model is None else model_hash(self.style_model),
            "vae_sha256": "" if self.vae is None else model_hash(self.vae),
            "text_encoders_sha256": "" if self.text_encoders is None else model_hash(self.text_encoders),
            "style_sha256": tuple(sha256(style.path) for style in self.styles),
            **({"style_image_sha256": sha256(self.style_image)} if self.style_image else {}),
            **({"control_model_sha256": model_hash(self.control_model)} if self.control_model else {}),
            **(
                {"weights_sha256": tuple(sha256(found.path) for found in self.weights.values())} if self.weights else {}
            ),
            **({"embedding_sha256": tuple(map(sha256, self.embeddings))} if self.embeddings else {}),
        }


def resolve_sources(run: RunConfig) -> Sources:
    """Resolve all names of a run; a hub style is fetched, a hub model is not fetched yet.

    Raises:
        InputError: a name stands for nothing.
    """
    return Sources(
        model=resolve_model(run.model),
        style_model=None if run.style_model is None else resolve_model(run.style_model),
        preview_model=_preview_model(run),
        vae=None if run.vae is None else resolve_vae(run.vae),
        text_encoders=None if run.text_encoders is None else resolve_text_encoders(run.text_encoders),
        styles=tuple(resolve_style(style.name) for style in run.styles),
        style_image=_style_image(run),
        control_model=None if run.control_model is None else resolve_control_model(run.control_model),
        embeddings=tuple(resolve_embedding(choice.file) for choice in run.embeddings),
        weights=find_weights(run),
        loads_model=not run.method.is_transfer,
    )


def _preview_model(run: RunConfig) -> ModelSource | None:
    return None if run.preview_model is None else resolve_preview_model(run.preview_model)


def _style_image(run: RunConfig) -> Path | None:
    return None if run.style_image is None else find_style_image(run.style_image)


def find_weights(run: RunConfig) -> dict[str, Found]:
    """Return where the weights are of the method's networks that are no diffusion models.

    Those of an IP-Adapter are left out where the run names none: what is usual depends on the model's family.

    Raises:
        ModelError: they are nowhere, or those that are named do not exist.
    """
    given = {choice.network: choice.file for choice in run.weights}
    found = {name: place for name in run.method.weights if (place := locate(name, given)) is not None}
    missing = next((name for name in run.method.weights if name not in found), None)
    if missing is not None and run.method.is_transfer:
        raise ModelError(
            f"{run.method.method} has no weights of {PLACES[missing].what}, {missing}", hint=how_to_get(missing)
        )
    return found


def _reference(found: Found) -> str:
    """Return a file's absolute path, or a hub id as it was given."""
    return str(found.path.absolute()) if found.origin == str(found.path) else found.origin


def find_style_image(name: str) -> Path:
    """Return the path of a picture in the style.

    Raises:
        PictureError: there is no such file.
    """
    path = user_path(name)
    if not is_file(path):
        raise PictureError(f"there is no picture {quote(name)}", hint="give --style-image a file")
    return path


def model_hash(source: ModelSource) -> str:
    """Return the hash of a model's files, or a hub model's id, whose files belong to the hub's cache.

    What stands beside the model in its folder, such as styles that were trained for it, does not change the hash.
    """
    return sha256(source.location, BESIDE_MODEL) if Path(source.location).exists() else str(source.location)
