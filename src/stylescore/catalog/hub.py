"""Fetches files from the Hugging Face hub; the client is loaded only when something is fetched."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from stylescore.errors import InputError, ModelError, StyleError

Result = TypeVar("Result")

USUAL_STYLE = "pytorch_lora_weights.safetensors"
MODEL_FILES = ("*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors")
NOT_NEEDED = ("safety_checker/*", "feature_extractor/*", "image_encoder/*", "*non_ema*")
HALF = "*.fp16.safetensors"
TINY_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
OFFLINE = "check the name and the network; a gated model needs `hf auth login`; or give a folder on this machine"


def download_model(hub_id: str) -> Path:
    """Fetch the parts of a diffusers model, or take them from the local cache.

    Half-precision copies are fetched only where the denoising network has no plain weights, not beside them.

    Raises:
        ModelError: when the hub does not have it or cannot be reached.
    """
    folder = _snapshot(hub_id, (*NOT_NEEDED, HALF))
    has_weights = any(any((folder / part).glob("*.safetensors")) for part in ("unet", "transformer"))
    return folder if has_weights else _snapshot(hub_id, NOT_NEEDED)


def _snapshot(hub_id: str, ignored: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=list(MODEL_FILES), ignore_patterns=list(ignored)))

    return Path(_asking(fetch, f"the model {hub_id!r} cannot be fetched", ModelError))


def download_tiny(hub_id: str) -> Path:
    """Fetch the two files of a tiny autoencoder, or take them from the local cache; nothing else of its place.

    Raises:
        ModelError: when the hub does not have it or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=list(TINY_FILES)))

    return Path(_asking(fetch, f"the preview model {hub_id!r} cannot be fetched", ModelError))


def cached_tiny(hub_id: str) -> Path | None:
    """Return the folder of a tiny autoencoder in the local cache, or `None`; the hub is not asked."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(TINY_FILES), local_files_only=True))
    except (OSError, ValueError):
        return None


def download_tokenizer(hub_id: str) -> Path:
    """Fetch the files of a CLIP tokenizer, or take them from the local cache.

    Raises:
        ModelError: when the hub does not have it or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=["vocab.json", "merges.txt", "*token*.json"]))

    return Path(_asking(fetch, f"the tokenizer {hub_id!r} cannot be fetched", ModelError))


def download_style(hub_id: str, file: str | None) -> Path:
    """Fetch one LoRA file; without `file`, the only one or the one with the usual name.

    Raises:
        StyleError: when the hub does not have it, cannot be reached, or it is unclear which file is meant.
    """
    from huggingface_hub import hf_hub_download

    def fetch() -> str:
        return str(hf_hub_download(hub_id, file or _only_style(hub_id)))

    return Path(_asking(fetch, f"the style {hub_id!r} cannot be fetched", StyleError))


def _only_style(hub_id: str) -> str:
    from huggingface_hub import HfApi

    names = [name for name in HfApi().list_repo_files(hub_id) if name.endswith(".safetensors")]
    if len(names) == 1 or USUAL_STYLE in names:
        return names[0] if len(names) == 1 else USUAL_STYLE
    hint = f"name one: {', '.join(f'{hub_id}:{name}' for name in names[:5])}" if names else None
    raise StyleError(f"{hub_id!r} has {len(names)} .safetensors files, one is needed", hint=hint)


def _asking(fetch: Callable[[], Result], failure: str, error: type[InputError]) -> Result:
    """Turn whatever the client or the network raises into one of our errors."""
    try:
        return fetch()
    except InputError:
        raise
    except Exception as reason:
        raise error(f"{failure}: {_first_line(reason)}", hint=OFFLINE) from reason


def _first_line(reason: Exception) -> str:
    return textwrap.shorten(str(reason), 160, placeholder=" ...") or type(reason).__name__
