"""Loads tiny autoencoders, which decode previews in a fraction of the time that the model's own decoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylescore.catalog.hub import TINY_FILES, cached_tiny, download_tiny
from stylescore.catalog.registry import TINY_FOLDER, ModelSource
from stylescore.diffusion.checkpoints.folders import (
    network_class,
    read_json,
    refuse_pickles,
    require_complete,
    silence_libraries,
    translate_errors,
)
from stylescore.diffusion.codec import Codec
from stylescore.errors import ModelError
from stylescore.storage.safetensors_header import read_header

_KIND = "AutoencoderTiny"
_PART = "tiny autoencoder"
_COLOURS = 3
_FIT_HINT = "choose the tiny autoencoder of the model's family, or leave out --preview-model"


def choose_codec(given: ModelSource | None, default: str | None, own: Codec) -> Codec:
    """Return the codec that decodes previews.

    Args:
        given: folder or hub id of a tiny autoencoder; downloaded if it is not on this machine.
        default: hub id of the family's tiny autoencoder, used only if it is in the local cache and fits the model.
        own: the model's own codec, used where neither of them can be.

    Raises:
        ModelError: the given one cannot be fetched, is invalid or does not fit the model.
    """
    if given is not None:
        place = given.location if given.kind == "folder" else download_tiny(str(given.location))
        return _load_tiny(Path(place), own)
    folder = cached_tiny(default) if default else None
    if folder is None:
        return own
    try:
        return _load_tiny(folder, own)
    except ModelError:
        return own  # the user did not ask for it, so it must not stop the run


def _load_tiny(folder: Path, own: Codec) -> Codec:
    """Load a tiny autoencoder with device, precision, tiles and offloading of the model's own.

    Raises:
        ModelError: it is invalid or does not fit the model.
    """
    _require_tiny(folder)
    with silence_libraries(), translate_errors(folder, _PART):
        vae, info = network_class(_KIND).from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            torch_dtype=own.vae.dtype,
        )
    require_complete(folder, _PART, info)
    codec = replace(own, vae=vae)
    _require_fit(folder, codec, own)
    vae.to(own.vae.device).eval().requires_grad_(False)
    return codec


def _require_tiny(folder: Path) -> None:
    """Raise `ModelError` unless the folder holds the settings of a tiny autoencoder, and weights in safetensors."""
    config, weights = (folder / file for file in TINY_FILES)
    if not config.is_file():
        raise ModelError(f"{str(folder)!r} is no tiny autoencoder: it has no {config.name}", hint=TINY_FOLDER)
    kind = read_json(config, _PART).get("_class_name")
    if kind != _KIND:
        raise ModelError(f"{str(folder)!r} is a {kind!r}, not an {_KIND}", hint=_FIT_HINT)
    if not weights.is_file():
        refuse_pickles(folder, _PART, folder)
        raise ModelError(f"the {_PART} of {str(folder)!r} has no {TINY_FILES[1]}", hint=TINY_FOLDER)
    read_header(weights, error=ModelError)


def _require_fit(folder: Path, tiny: Codec, own: Codec) -> None:
    """Raise `ModelError` unless a tiny autoencoder decodes the model's latents to colour pictures of the same size."""
    facts: Mapping[str, tuple[Any, Any]] = {
        "latent channels": (tiny.vae.config.latent_channels, own.vae.config.latent_channels),
        "pixels per latent cell": (tiny.factor, own.factor),
        "colour channels": (tiny.vae.config.out_channels, _COLOURS),
    }
    for fact, (found, wanted) in facts.items():
        if found != wanted:
            raise ModelError(
                f"the tiny autoencoder of {str(folder)!r} does not fit the model: it has {found} {fact}, not {wanted}",
                hint=_FIT_HINT,
            )
