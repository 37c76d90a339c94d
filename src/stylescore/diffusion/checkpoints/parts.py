"""Loads components that come from another place than the model: an autoencoder, or text encoders with tokenizers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stylescore.catalog.hub import download_text_encoders, download_vae
from stylescore.catalog.registry import TEXT_ENCODERS_FOLDER, ModelSource
from stylescore.diffusion.checkpoints.folders import (
    load_network,
    load_tokenizer,
    network_class,
    read_json,
    require_complete,
    require_config,
    require_kind,
    require_weights,
    silence_libraries,
    translate_errors,
)
from stylescore.diffusion.checkpoints.limits import check_vae, refuse_packed, refuse_scaled
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.families import Checkpoint, ComponentSpec, Family
from stylescore.errors import ModelError
from stylescore.storage.safetensors_header import read_header

_VAE = ComponentSpec("vae", "AutoencoderKL")
_RELEASED = Path(__file__).parent


def add_parts(checkpoint: Checkpoint, dtype: torch.dtype, options: ModelOptions) -> Checkpoint:
    """Return a checkpoint with the components that the options take from elsewhere.

    Raises:
        ModelError: one of them is missing, invalid, or of another kind.
    """
    notes = list(checkpoint.notes)
    networks, tokenizers = dict(checkpoint.networks), dict(checkpoint.tokenizers)
    if options.vae is not None:
        networks["vae"] = _load_vae(options.vae, checkpoint, dtype, notes)
    if options.text_encoders is not None:
        folder = _folder_of(options.text_encoders)
        for tokenizer, text in _present_texts(folder, checkpoint.family):
            require_config(folder, text, "config.json", checkpoint.family)
            networks[text.name] = load_network(folder, text, dtype, require_weights(folder, text))
            tokenizers[tokenizer.name] = load_tokenizer(folder / tokenizer.name, tokenizer.kind)
    return replace(checkpoint, networks=networks, tokenizers=tokenizers, notes=tuple(notes))


def _folder_of(source: ModelSource) -> Path:
    """Return the folder of a model with text encoders, downloaded if need be."""
    return download_text_encoders(str(source.location)) if source.kind == "hub" else Path(source.location)


def _present_texts(folder: Path, family: Family) -> list[tuple[ComponentSpec, ComponentSpec]]:
    """Return the family's tokenizers and text models, but the optional ones that the folder lacks.

    Raises:
        ModelError: it lacks another one.
    """
    absent = [text for _, text in family.text_models if not (folder / text.name).is_dir()]
    needed = [text.name for text in absent if not text.is_optional]
    if needed:
        raise ModelError(
            f"{str(folder)!r} lacks {', '.join(needed)}, which {family.label} needs", hint=TEXT_ENCODERS_FOLDER
        )
    return [(tokenizer, text) for tokenizer, text in family.text_models if text not in absent]


def _load_vae(source: ModelSource, checkpoint: Checkpoint, dtype: torch.dtype, notes: list[str]) -> Any:
    """Load an autoencoder from a folder of its own, from a whole model, from a file or from the hub."""
    path = download_vae(str(source.location)) if source.kind == "hub" else Path(source.location)
    if path.is_file():
        return _load_vae_file(path, checkpoint, dtype, notes)
    folder = path if (path / "config.json").is_file() else path / "vae"
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(
            f"{str(path)!r} is no autoencoder: it has neither config.json nor vae/config.json",
            hint="give the folder that holds config.json and the weights",
        )
    spec = replace(_VAE, name=folder.name)
    require_kind(folder.parent, spec, read_json(config, spec.name))
    check_vae(str(path), read_json(config, spec.name))
    return load_network(folder.parent, spec, dtype, require_weights(folder.parent, spec))


def _load_vae_file(path: Path, checkpoint: Checkpoint, dtype: torch.dtype, notes: list[str]) -> Any:
    """Load an autoencoder from a file, which states no settings: it has those of the model's own."""
    header = read_header(path, error=ModelError)
    refuse_scaled(path, header)
    refuse_packed(path, header.tensors)
    own = checkpoint.configs if (checkpoint.configs / "vae").is_dir() else _RELEASED / checkpoint.family.facts.key
    settings = read_json(own / "vae" / "config.json", "vae")
    notes.append(
        f"the autoencoder {path.name} states no settings; those of {checkpoint.family.label}'s are used, "
        f"scaling_factor {settings.get('scaling_factor', 1.0):g}"
    )
    with silence_libraries(), translate_errors(path, "vae"):
        vae = network_class(_VAE.kind).from_single_file(
            str(path), config=str(own), subfolder="vae", torch_dtype=dtype, local_files_only=True
        )
    missing = [name for name, weight in vae.named_parameters() if weight.is_meta]
    require_complete(path, "vae", {"missing_keys": missing})
    return vae
