"""Reads textual inversion embeddings: vectors that stand for a word in prompts, from files of their own or in a LoRA.

Gal et al., *An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion*, ICLR 2023. The
names of the tensors are those of AUTOMATIC1111's and kohya's files (`emb_params`, `string_to_param.*`), of files for
models with several text encoders (`clip_l`, `clip_g`, `t5`), and of diffusers (the token itself).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from stylescore.errors import StyleError, is_out_of_memory, quote
from stylescore.storage.safetensors_header import read_header

FIRST = ""
"""Key of vectors that name no text encoder: they are for the first one."""
_ENCODERS = ("clip_l", "clip_g", "t5")
_SPELLINGS = {"t5xxl": "t5", "text_encoders_0": "clip_l", "text_encoders_1": "clip_g"}
"""Other names of the vectors for one encoder: of ComfyUI, and of older training scripts of diffusers."""
_OUTPUTS = tuple(f"{encoder}_out" for encoder in _ENCODERS)
_UNNAMED = re.compile(r"emb_params|string_to_param\.\*|\*|<[^<>]+>")
_NOTES = re.compile(r"string_to_token\..+|name|step")
_MOST_VECTORS = 1000
_USE_ANOTHER = "use another file"


@dataclass(frozen=True)
class Embedding:
    """The vectors that stand for one token.

    Attributes:
        vectors: by text encoder ("clip_l", "clip_g" or "t5", `FIRST` where the file names none), [count, width] each.
    """

    vectors: Mapping[str, Tensor]


def read_embedding(path: Path | str) -> Embedding:
    """Read a textual inversion file; vectors are converted to float32.

    Raises:
        StyleError: the file is missing, is no safetensors file, or holds no embedding that can be used.
    """
    path = Path(path)
    header = read_header(path, error=StyleError, wanted="a textual inversion embedding")
    names = [name for name in header.tensors if not _NOTES.fullmatch(name)]
    if not names or not (len(names) == 1 or all(_is_known(name) for name in names)):
        shown = f", such as {quote(names[0])}" if names else ""
        reason = f"it has {len(names)} tensors{shown}"
        raise StyleError(f"{str(path)!r} is no textual inversion embedding: {reason}", hint=_USE_ANOTHER)
    try:
        tensors = load_file(path)
    except Exception as reason:  # of whatever kind the library finds fitting
        if is_out_of_memory(reason):
            raise
        raise StyleError(f"{str(path)!r} cannot be read: {reason}", hint="download the file again") from reason
    return read_vectors(path, path.stem, {name: tensors[name] for name in names})


def _is_known(name: str) -> bool:
    return name in (*_ENCODERS, *_SPELLINGS, *_OUTPUTS) or _UNNAMED.fullmatch(name) is not None


def read_vectors(path: Path, token: str, tensors: Mapping[str, Tensor]) -> Embedding:
    """Return the embedding that a token's tensors make up.

    Args:
        path: the file, for messages.
        token: the token, for messages.
        tensors: by their name in an embedding's own file.

    Raises:
        StyleError: the tensors are no embedding that can be used.
    """
    if any(name in _OUTPUTS for name in tensors):
        reason = f"output embeddings for {quote(token)}, which are added behind a text encoder and are not supported"
        raise StyleError(f"{str(path)!r} has {reason}", hint=_USE_ANOTHER)
    vectors: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = _SPELLINGS.get(name, name)
        encoder = known if known in _ENCODERS else FIRST
        if encoder in vectors:
            reason = f"{len(tensors)} tensors for {quote(token)} that name no text encoder, such as {quote(name)}"
            raise StyleError(f"{str(path)!r} has {reason}", hint=_USE_ANOTHER)
        vectors[encoder] = _to_rows(path, token, tensor)
    if len({len(rows) for rows in vectors.values()}) > 1:
        counts = ", ".join(f"{len(rows)} for {encoder}" for encoder, rows in vectors.items())
        raise StyleError(
            f"{str(path)!r} has different numbers of vectors for {quote(token)}: {counts}", hint=_USE_ANOTHER
        )
    return Embedding(vectors)


def _to_rows(path: Path, token: str, tensor: Tensor) -> Tensor:
    """Return vectors as [count, width], float32."""
    rows = tensor[None] if tensor.ndim == 1 else tensor
    if rows.ndim != 2 or rows.numel() == 0 or len(rows) > _MOST_VECTORS:
        reason = f"an embedding of shape {tuple(tensor.shape)} for {quote(token)}, which must be rows of numbers"
        raise StyleError(f"{str(path)!r} has {reason}", hint=_USE_ANOTHER)
    if not rows.is_floating_point() or not bool(torch.isfinite(rows.float()).all()):
        reason = f"an embedding for {quote(token)} whose numbers are integers or not finite"
        raise StyleError(f"{str(path)!r} has {reason}", hint=_USE_ANOTHER)
    return rows.float()
