"""Which text model gets which vectors of an added token: of those in style adapters, and of separate embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from stylescore.diffusion.text import TextEncoder, TextModel
from stylescore.errors import StyleError, quote
from stylescore.lora import LoraFile
from stylescore.lora.embeddings import FIRST, Embedding

Placed = dict[str, dict[str, Tensor]]
"""Vectors, [count, width], by the name of the text model and the token."""
_CHOOSE_MODEL = "choose the model it was trained on with --model"


@dataclass(frozen=True)
class TokenSource:
    """An added token and where it comes from.

    Attributes:
        token: the token.
        embedding: its vectors.
        origin: what adds it, for messages: "the style 'a.safetensors'".
        may_repeat: whether another source may give the same token for other text encoders.
    """

    token: str
    embedding: Embedding
    origin: str
    may_repeat: bool = False


def tokens_of_styles(loras: Iterable[LoraFile]) -> list[TokenSource]:
    """Return the added tokens of style adapters."""
    return [
        TokenSource(token, embedding, f"the style {str(lora.path)!r}")
        for lora in loras
        for token, embedding in lora.added_tokens.items()
    ]


def place_tokens(sources: Iterable[TokenSource], text: TextEncoder) -> Placed:
    """Return the vectors of every added token by the text model that they are for.

    Vectors that name no text encoder are for the only one, or for the one of their width. Every CLIP text model needs
    vectors of a token; a T5 reads a token without vectors as plain letters.

    Raises:
        StyleError: two sources add one token, an embedding does not fit the text encoder, or vectors are missing.
    """
    placed: Placed = {model.name: {} for model in text.models}
    origins: dict[str, TokenSource] = {}
    for source in sources:
        earlier = origins.setdefault(source.token, source)
        for encoder, vectors in source.embedding.vectors.items():
            model = _find_model(source, encoder, vectors, text)
            if source.token in placed[model.name] or (earlier is not source and not source.may_repeat):
                raise _repeated(source)
            placed[model.name][source.token] = vectors
    for source in origins.values():
        _require_all(source, placed, text)
    return placed


def unread_tokens(placed: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """Return a line for every text model that has no vectors for a token which another one has."""
    tokens = {token for known in placed.values() for token in known}
    return [
        f"{name} has no vectors for {quote(token)} and reads it as plain letters"
        for name, known in placed.items()
        for token in sorted(tokens - set(known))
    ]


def _find_model(source: TokenSource, encoder: str, vectors: Tensor, text: TextEncoder) -> TextModel:
    """Return the text model that vectors are for."""
    clips = [model for model in text.models if not model.reads_words]
    sentences = [model for model in text.models if model.reads_words]
    candidates: Mapping[str, list[TextModel]] = {"clip_l": clips[:1], "clip_g": clips[1:2], "t5": sentences[-1:]}
    if encoder == FIRST:
        by_width = [model for model in text.models if model.width == vectors.shape[-1]]
        found = by_width[:1] or clips[:1]
    else:
        found = candidates[encoder]
    if not found:
        raise _unfit(source, f"has vectors for {encoder}, the model has no such text encoder")
    if found[0].width != vectors.shape[-1]:
        raise _unfit(source, f"has the width {vectors.shape[-1]}, those of the model have {found[0].width}")
    return found[0]


def _require_all(source: TokenSource, placed: Placed, text: TextEncoder) -> None:
    """Raise `StyleError` unless every CLIP text model has vectors for a token."""
    absent = [model.name for model in text.models if not model.reads_words and source.token not in placed[model.name]]
    if absent:
        raise _unfit(source, f"has no vectors for {absent[0]}, so that it was made for another family of models")


def _repeated(source: TokenSource) -> StyleError:
    return StyleError(
        f"{source.origin} adds the token {source.token!r}, and so does another style or embedding",
        hint="use one of them",
    )


def _unfit(source: TokenSource, reason: str) -> StyleError:
    start = f"{source.origin} does not fit the model: the embedding of its token {source.token!r}"
    return StyleError(f"{start} {reason}", hint=_CHOOSE_MODEL)
