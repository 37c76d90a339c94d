"""Tiny autoencoders: previews of a run in a fraction of the time that the model's own decoder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stylescore.catalog.hub import TINY_FILES, cached_tiny, download_tiny
from stylescore.catalog.registry import TINY_FOLDER, resolve_preview_model
from stylescore.diffusion.checkpoints.folders import (
    naming,
    network_class,
    quiet,
    read_json,
    refuse_pickles,
    require_complete,
)
from stylescore.diffusion.codec import Codec
from stylescore.errors import ModelError
from stylescore.storage.safetensors_header import read_header

KIND = "AutoencoderTiny"
PART = "tiny autoencoder"
COLOURS = 3
ANOTHER = "choose the tiny autoencoder of the model's family, or leave out --preview-model"


def choose_codec(named: str | None, usual: str | None, own: Codec) -> Codec:
    """Return what previews are decoded with.

    Args:
        named: folder or hub id of the tiny autoencoder that was asked for; what is not on this machine is fetched.
        usual: hub id of one that is taken unasked, if it is in the local cache and can be used.
        own: the model's own autoencoder, which is left to decode where neither is given.

    Raises:
        ModelError: the named one cannot be fetched, is unsound or does not fit the model.
    """
    if named is not None:
        return tiny_codec(folder_of(named), own)
    folder = cached_tiny(usual) if usual else None
    if folder is None:
        return own
    try:
        return tiny_codec(folder, own)
    except ModelError:
        return own  # nobody asked for it, so it is no reason to refuse the run


def folder_of(name: str) -> Path:
    """Return the folder of a named tiny autoencoder, fetched if it is a hub id.

    Raises:
        ModelError: there is none of that name, or it cannot be fetched.
    """
    source = resolve_preview_model(name)
    return Path(source.location) if source.kind == "folder" else download_tiny(str(source.location))


def tiny_codec(folder: Path, own: Codec) -> Codec:
    """Load a tiny autoencoder to where the model's own is, in its precision and with its windows and visits.

    Args:
        folder: of its two files.
        own: the model's own autoencoder.

    Raises:
        ModelError: it is unsound or does not fit the model.
    """
    require_tiny(folder)
    with quiet(), naming(folder, PART):
        vae, info = network_class(KIND).from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            torch_dtype=own.vae.dtype,
        )
    require_complete(folder, PART, info)
    codec = replace(own, vae=vae)
    require_fit(folder, codec, own)
    vae.to(own.vae.device).eval().requires_grad_(False)
    return codec


def require_tiny(folder: Path) -> None:
    """Raise `ModelError` unless a folder says it holds a tiny autoencoder and has sound weights that are no pickle."""
    config, weights = (folder / file for file in TINY_FILES)
    if not config.is_file():
        raise ModelError(f"{str(folder)!r} is no tiny autoencoder: it has no {config.name}", hint=TINY_FOLDER)
    kind = read_json(config, PART).get("_class_name")
    if kind != KIND:
        raise ModelError(f"{str(folder)!r} is a {kind!r}, not an {KIND}", hint=ANOTHER)
    if not weights.is_file():
        refuse_pickles(folder, PART, folder)
        raise ModelError(f"the {PART} of {str(folder)!r} has no {TINY_FILES[1]}", hint=TINY_FOLDER)
    read_header(weights, error=ModelError)


def require_fit(folder: Path, tiny: Codec, own: Codec) -> None:
    """Raise `ModelError` unless a tiny autoencoder makes colour pictures of the model's latents, in their size."""
    facts: Mapping[str, tuple[Any, Any]] = {
        "latent channels": (tiny.vae.config.latent_channels, own.vae.config.latent_channels),
        "pixels per latent cell": (tiny.factor, own.factor),
        "colour channels": (tiny.vae.config.out_channels, COLOURS),
    }
    for words, (found, wanted) in facts.items():
        if found != wanted:
            raise ModelError(
                f"the tiny autoencoder of {str(folder)!r} does not fit the model: it has {found} {words}, not {wanted}",
                hint=ANOTHER,
            )
