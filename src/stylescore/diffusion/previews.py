"""Loads tiny autoencoders, which decode previews in a fraction of the time that the model's own decoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylescore.catalog.hub import cached_tiny, download_tiny
from stylescore.catalog.registry import TINY_FOLDER, ModelSource
from stylescore.diffusion.checkpoints.folders import load_alone, require_facts
from stylescore.diffusion.codec import Codec
from stylescore.errors import ModelError

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
    vae = load_alone(folder, _KIND, _PART, own.vae.dtype, (TINY_FOLDER, _FIT_HINT))
    codec = replace(own, vae=vae)
    _require_fit(folder, codec, own)
    vae.to(own.vae.device)
    return codec


def _require_fit(folder: Path, tiny: Codec, own: Codec) -> None:
    """Raise `ModelError` unless a tiny autoencoder decodes the model's latents to colour pictures of the same size."""
    facts: Mapping[str, tuple[Any, Any]] = {
        "latent channels": (tiny.vae.config.latent_channels, own.vae.config.latent_channels),
        "pixels per latent cell": (tiny.factor, own.factor),
        "colour channels": (tiny.vae.config.out_channels, _COLOURS),
    }
    require_facts(_PART, folder, facts, _FIT_HINT)
