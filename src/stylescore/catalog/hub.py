"""Downloads files from the Hugging Face hub, and uploads some; its client is imported only for that."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from stylescore.errors import InputError, ModelError, OutputError, StyleError, quote

Result = TypeVar("Result")

DEFAULT_STYLE_FILE = "pytorch_lora_weights.safetensors"
USUAL_STYLE_FILES = (DEFAULT_STYLE_FILE, "adapter_model.safetensors")
ADAPTER_SETTINGS = "adapter_config.json"
_MODEL_FILES = ("*.json", "*.txt", "*/*.json", "*/*.txt", "*/*.safetensors")
_UNUSED_FILES = ("safety_checker/*", "feature_extractor/*", "image_encoder/*", "*non_ema*")
_TRANSFORMER_FILES = ("*.json", "*.txt", "*.safetensors")
HUB_ID = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}\w)?/\w(?:[\w.-]{0,94}\w)?", re.ASCII)
"""What the hub allows as `owner/name`: no `-` or `.` at an end, and none of them twice in a row."""
HALF_PRECISION_FILES = "*.fp16.safetensors"
TINY_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
GENERATOR_ENDINGS = (".onnx", ".safetensors")
"""Kinds of files that generators are loaded from, the first that a repository has; no others are downloaded."""
_UPLOAD_HINT = "log in with `hf auth login` and a token that may write, and check the name and the network"
CONTROL_FILES = TINY_FILES
_DOWNLOAD_HINT = "check the name and the network; a gated model needs `hf auth login`; or give a folder on this machine"
CAPTION_MODELS = (
    *("Salesforce/blip-image-captioning-base", "Salesforce/blip-image-captioning-large"),
    *("florence-community/Florence-2-base", "florence-community/Florence-2-large"),
)
"""Models that write captions and are looked for in the local cache where none is named, in this order."""


def download_model(hub_id: str) -> Path:
    """Download a diffusers model, or take it from the local cache, and return its folder.

    Half-precision copies of weights are downloaded only if the denoising network has no others.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    folder = _snapshot(hub_id, (*_UNUSED_FILES, HALF_PRECISION_FILES))
    has_weights = any(any((folder / part).glob("*.safetensors")) for part in ("unet", "transformer"))
    return folder if has_weights else _snapshot(hub_id, _UNUSED_FILES)


def download_vae(hub_id: str) -> Path:
    """Download an autoencoder alone, or that of a whole model, and return the folder; a cached copy is taken first.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_parts(hub_id, "autoencoder", ("config.json", "*.safetensors", "vae/*"))


def download_text_encoders(hub_id: str) -> Path:
    """Download a model's text encoders with their tokenizers, and return the model's folder.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_parts(hub_id, "text encoders", ("model_index.json", "text_encoder*/*", "tokenizer*/*"))


def _download_parts(hub_id: str, what: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        ignored = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", HALF_PRECISION_FILES]
        return str(snapshot_download(hub_id, allow_patterns=list(files), ignore_patterns=ignored))

    return Path(_download(fetch, f"the {what} of {hub_id!r} cannot be fetched", ModelError))


def _snapshot(hub_id: str, ignored: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=list(_MODEL_FILES), ignore_patterns=list(ignored)))

    return Path(_download(fetch, f"the model {hub_id!r} cannot be fetched", ModelError))


def download_tiny(hub_id: str) -> Path:
    """Download the two files of a tiny autoencoder, or take them from the local cache, and return their folder.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_folder(hub_id, TINY_FILES, "preview model")


def cached_tiny(hub_id: str) -> Path | None:
    """Return the folder of a tiny autoencoder in the local cache, or `None`; the hub is not contacted."""
    return _cached_folder(hub_id, TINY_FILES)


def download_control(hub_id: str) -> Path:
    """Download the two files of a ControlNet, or take them from the local cache, and return their folder.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_folder(hub_id, CONTROL_FILES, "ControlNet")


def split_hub_file(text: str) -> tuple[str | None, str]:
    """Return hub id and file of `owner/name:file`, the file empty for `owner/name`; the id is `None` if it is none."""
    hub_id, _, file = text.partition(":")
    return (hub_id if HUB_ID.fullmatch(hub_id) else None), file


def download_file(hub_id: str, file: str) -> Path:
    """Download one file of weights, or take it from the local cache.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    def fetch() -> str:
        return str(hf_hub_download(hub_id, file))

    return Path(_download(fetch, f"the weights '{hub_id}:{file}' cannot be fetched", ModelError))


def cached_file(hub_id: str, file: str) -> Path | None:
    """Return one file from the local cache, or `None`; the hub is not contacted."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, file, local_files_only=True))
    except (OSError, ValueError):
        return None


def download_transformer(hub_id: str) -> Path:
    """Download a model of transformers with its tokenizer, or take it from the local cache, and return its folder.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_folder(hub_id, _TRANSFORMER_FILES, "model")


def download_subfolder(hub_id: str, name: str) -> Path:
    """Download a model of transformers that is a folder of a repository, or take it from the local cache.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    return _download_folder(hub_id, [f"{name}/{pattern}" for pattern in _TRANSFORMER_FILES], "model") / name


def cached_transformer(hub_id: str) -> Path | None:
    """Return the folder of a model of transformers in the local cache, or `None`; the hub is not contacted."""
    folder = _cached_folder(hub_id, _TRANSFORMER_FILES)
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None


def _download_folder(hub_id: str, files: Sequence[str], what: str) -> Path:
    """Return the folder of some files of a model, downloaded where the local cache lacks them."""
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=list(files)))

    return Path(_download(fetch, f"the {what} {hub_id!r} cannot be fetched", ModelError))


def _cached_folder(hub_id: str, files: Sequence[str]) -> Path | None:
    """Return the folder of some files of a model in the local cache, or `None`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files), local_files_only=True))
    except (OSError, ValueError):
        return None


def download_tokenizer(hub_id: str) -> Path:
    """Download the files of a CLIP tokenizer, or take them from the local cache, and return their folder.

    Raises:
        ModelError: the hub does not have it or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    def fetch() -> str:
        return str(snapshot_download(hub_id, allow_patterns=["vocab.json", "merges.txt", "*token*.json"]))

    return Path(_download(fetch, f"the tokenizer {hub_id!r} cannot be fetched", ModelError))


def download_style(hub_id: str, file: str | None, what: str = "style") -> Path:
    """Download one LoRA file with the settings beside it; without `file`, the only one or the one with a usual name.

    Args:
        hub_id: the id.
        file: the file's name there.
        what: what is downloaded, for messages.

    Raises:
        StyleError: the hub does not have it or cannot be reached, or there are several files to choose from.
    """
    from huggingface_hub import hf_hub_download

    def fetch() -> str:
        name = file or _find_style_file(hub_id)
        path = str(hf_hub_download(hub_id, name))
        _fetch_settings(hub_id, name)
        return path

    return Path(_download(fetch, f"the {what} {hub_id!r} cannot be fetched", StyleError))


def _fetch_settings(hub_id: str, file: str) -> None:
    """Download the settings that PEFT writes beside an adapter, if there are any."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with suppress(EntryNotFoundError):
        hf_hub_download(hub_id, f"{file.rpartition('/')[0]}/{ADAPTER_SETTINGS}".lstrip("/"))


def _find_style_file(hub_id: str) -> str:
    from huggingface_hub import HfApi

    names = [name for name in HfApi().list_repo_files(hub_id) if name.endswith(".safetensors")]
    usual = [name for name in USUAL_STYLE_FILES if name in names]
    if len(names) == 1 or usual:
        return names[0] if len(names) == 1 else usual[0]
    hint = f"name one of them: {', '.join(f'{hub_id}:{name}' for name in names[:5])}" if names else None
    raise StyleError(f"{hub_id!r} has {len(names)} .safetensors files, exactly one is needed", hint=hint)


def download_generator(hub_id: str, file: str | None) -> Path:
    """Download the file of a generator, or take it from the local cache, and return it; nothing else is fetched.

    Args:
        hub_id: the id.
        file: the file's name there, or `None` for the only ONNX file, or the only safetensors file if there is none.

    Raises:
        ModelError: the hub does not have it or cannot be reached, it is a file of another kind, or there are several.
    """
    if file is not None and not file.endswith(GENERATOR_ENDINGS):
        raise ModelError(
            f"a generator is loaded from {' or '.join(GENERATOR_ENDINGS)}, not from {quote(file)}",
            hint=f"name such a file of {hub_id!r}, or none",
        )
    return download_file(hub_id, file or _find_generator_file(hub_id))


def _find_generator_file(hub_id: str) -> str:
    from huggingface_hub import HfApi

    failure = f"the generator {hub_id!r} cannot be fetched"
    names = sorted(_download(lambda: list(HfApi().list_repo_files(hub_id)), failure, ModelError))
    by_kind = ([name for name in names if name.endswith(ending)] for ending in GENERATOR_ENDINGS)
    found = next(filter(None, by_kind), [])
    if len(found) == 1:
        return str(found[0])
    hint = f"name one of them: {', '.join(f'{hub_id}:{name}' for name in found[:5])}" if found else "check the name"
    raise ModelError(f"{hub_id!r} has {len(found)} files of generators, exactly one is needed", hint=hint)


def upload_files(hub_id: str, files: Mapping[str, Path | bytes], *, private: bool, message: str) -> str:
    """Upload files in one commit to a repository, which is made if there is none, and return its address.

    Args:
        hub_id: the repository.
        files: paths or contents by their names in the repository.
        private: whether a repository that is made can be seen by its owner only.
        message: of the commit.

    Raises:
        OutputError: the hub refuses it or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        url = str(api.create_repo(hub_id, private=private, exist_ok=True))
        api.create_commit(hub_id, operations, commit_message=message)
    except Exception as reason:  # the client and the network raise many kinds
        raise OutputError(f"{hub_id!r} cannot be uploaded: {_first_line(reason)}", hint=_UPLOAD_HINT) from reason
    return url


def _download(fetch: Callable[[], Result], failure: str, error: type[InputError]) -> Result:
    """Call `fetch` and raise `error` for whatever the client or the network raises."""
    try:
        return fetch()
    except InputError:
        raise
    except Exception as reason:
        raise error(f"{failure}: {_first_line(reason)}", hint=_DOWNLOAD_HINT) from reason


def _first_line(reason: Exception) -> str:
    return textwrap.shorten(str(reason), 160, placeholder=" ...") or type(reason).__name__
