"""Encodes prompts with a model's text models, and adds an adapter's changes and tokens to them.

A prompt longer than a CLIP model takes is split into windows, which are encoded by themselves and joined; a prompt that
weights words is encoded as it is, and the features of weighted tokens are moved away from those of the empty prompt or
towards them, as ComfyUI does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import RLock
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken

from stylescore.diffusion.adapters import merge
from stylescore.diffusion.conditioning import Conditioning, Pooled, Tokens, concatenate
from stylescore.diffusion.execution.memory import moved_to_device
from stylescore.diffusion.prompts import Parse, parse_plain
from stylescore.diffusion.tokens import AddedTokens, pieces_of
from stylescore.lora import Change

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TextOutput:
    """What a text model returns for prompts.

    Attributes:
        raw: its output with one row for each window of each prompt, and one for the empty prompt if there are weights.
        windows: how many windows each prompt has.
        weights: of every token, [batch windows, tokens]; `None` if all are 1.
    """

    raw: Any
    windows: int = 1
    weights: Tensor | None = None

    def tokens(self, features: Tensor) -> Tokens:
        """Return features of all tokens of each prompt, weighted.

        Args:
            features: a part of `raw`, [rows, tokens, width].
        """
        if self.weights is not None:
            features, empty = features[:-1], features[-1:]
            weights = self.weights[..., None].to(features)
            features = torch.where(weights == 1, features, empty + weights * (features - empty))
        return features.reshape(-1, self.windows * features.shape[1], features.shape[2])

    def pooled(self, vectors: Tensor) -> Pooled:
        """Return the vector of each prompt's first window; `vectors` is a part of `raw`, [rows, width]."""
        return (vectors if self.weights is None else vectors[:-1])[:: self.windows]


_TOKENIZERS = RLock()
"""Held while a tokenizer is called: it keeps the truncation and padding of the call in progress, for all threads."""


@dataclass(frozen=True)
class TextModel:
    """A text model with its tokenizer.

    Attributes:
        name: the subfolder of the model: `text_encoder`, `text_encoder_2`, ...
        tokenizer: a transformers tokenizer.
        model: a transformers text model.
        max_length: tokens per window, special ones included; shorter prompts are padded, without a mask.
        parse: splits a prompt into weighted fragments.
        windows: how many windows each prompt is padded to.
    """

    name: str
    tokenizer: Any
    model: Any
    max_length: int
    parse: Parse = parse_plain
    windows: int = 1

    def __call__(self, prompts: Sequence[str], **options: bool) -> TextOutput:
        """Return the model's output for the prompts."""
        with _TOKENIZERS:
            return self._encode(prompts, **options)

    def _encode(self, prompts: Sequence[str], **options: bool) -> TextOutput:
        parsed = [self.parse(prompt) for prompt in prompts]
        is_weighted = any(weight != 1 for fragments in parsed for _, weight in fragments)
        if self.windows == 1 and not is_weighted:
            texts = ["".join(text for text, _ in fragments) for fragments in parsed]
            tokens = self.tokenizer(
                texts, padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
            )
            return TextOutput(self.model(tokens.input_ids.to(self.model.device), **options))
        rows = [row for prompt in prompts for row in self._split(prompt)]
        ids = [self._pad([token for token, _ in row]) for row in [*rows, []][: len(rows) + is_weighted]]
        output = self.model(torch.tensor(ids, device=self.model.device), **options)
        return TextOutput(output, self.windows, self._weights(rows) if is_weighted else None)

    def _weigh(self, prompt: str) -> list[tuple[int, float]]:
        """Return a prompt's tokens with their weights, without special ones."""
        return [
            (token, weight)
            for text, weight in self.parse(prompt)
            for token in self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        ]

    def _split(self, prompt: str) -> list[list[tuple[int, float]]]:
        """Return a prompt's tokens window by window; what does not fit the last one is truncated."""
        tokens, room = self._weigh(prompt), self.room
        return [tokens[room * n : room * (n + 1)] for n in range(self.windows)]

    def _pad(self, tokens: list[int]) -> list[int]:
        """Return the tokens of a window between the model's special ones, padded."""
        *first, last = self.tokenizer("").input_ids
        padding = [self.tokenizer.pad_token_id] * (self.room - len(tokens))
        return [*first, *tokens, last, *padding]

    def _weights(self, rows: Sequence[Sequence[tuple[int, float]]]) -> Tensor:
        """Return the weights of windows' tokens, those of special tokens and padding 1, [rows, tokens]."""
        weights = torch.ones(len(rows), self.max_length, device=self.model.device)
        first = len(self.tokenizer("").input_ids) - 1
        for row, tokens in zip(weights, rows, strict=True):
            row[first : first + len(tokens)] = torch.tensor([weight for _, weight in tokens])
        return weights

    @property
    def room(self) -> int:
        """How many tokens of a prompt a window holds."""
        return int(self.max_length - self.tokenizer.num_special_tokens_to_add(False))

    def count_windows(self, prompt: str) -> int:
        """Return how many windows a prompt needs."""
        with _TOKENIZERS:
            return max(1, math.ceil(len(self._weigh(prompt)) / self.room))

    def truncated_end(self, prompt: str) -> str:
        """Return the end of a prompt that is truncated because the prompt is too long, or an empty text."""
        with _TOKENIZERS:
            ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return str(self.tokenizer.decode(ids[self.room :])).strip() if len(ids) > self.room else ""

    def with_changes(self, changes: Mapping[str, Change], strength: float) -> TextModel:
        """Return a copy with an adapter's changes merged into its weights."""
        model = deepcopy(self.model)
        merge(model, changes, strength)
        return replace(self, model=model)

    def with_added_tokens(self, embeddings: Mapping[str, Tensor]) -> TextModel:
        """Return a copy with added tokens, given by their vectors, [width] or [count, width] (textual inversion)."""
        rows = {token: vectors.reshape(-1, vectors.shape[-1]) for token, vectors in embeddings.items()}
        pieces = {token: pieces_of(token, len(vectors)) for token, vectors in rows.items()}
        tokenizer, model = deepcopy(self.tokenizer), deepcopy(self.model)
        names = list(chain.from_iterable(pieces.values()))
        tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
        present = model.get_input_embeddings()
        model.resize_token_embeddings(max(len(tokenizer), present.num_embeddings), mean_resizing=False)
        table = model.get_input_embeddings().weight.requires_grad_(False)
        table[tokenizer.convert_tokens_to_ids(names)] = torch.cat(list(rows.values())).to(table)
        return replace(self, tokenizer=AddedTokens(tokenizer, pieces), model=model)

    @property
    def reads_words(self) -> bool:
        """Whether this is a T5, which reads a prompt as a sentence of its own, instead of a CLIP text model."""
        return "t5" in str(getattr(self.model.config, "model_type", ""))

    @property
    def width(self) -> int:
        """Width of a token's embedding."""
        return int(self.model.get_input_embeddings().embedding_dim)


Encode = Callable[[Mapping[str, TextModel], Sequence[str]], Conditioning]
"""`(text models by name, prompts) -> conditioning`: how a family combines the outputs of its text models."""


@dataclass(frozen=True)
class TextEncoder:
    """All text models of a diffusion model.

    Attributes:
        models: in the family's order; a model may lack one.
        encode: how the family combines their outputs.
        device: where features are put; `None` leaves them on the models' device.
        execution_device: where the models are moved to while they run; `None` leaves them where they are.
        splits: whether a prompt may be split into windows; not where a T5 encodes long ones.
    """

    models: tuple[TextModel, ...]
    encode: Encode
    device: torch.device | None = None
    execution_device: torch.device | None = None
    splits: bool = True

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return the features of the prompts, float32."""
        return self.encode_groups([prompts])[0]

    def reading(self, parse: Parse, prompts: Sequence[str] = ()) -> TextEncoder:
        """Return an encoder that parses prompts, with as many windows as the longest of some prompts needs."""
        models = tuple(replace(model, parse=parse) for model in self.models)
        counts = [model.count_windows(prompt) for model in models for prompt in prompts] if self.splits else []
        windows = max(counts, default=1)
        return replace(self, models=tuple(replace(model, windows=windows) for model in models))

    @property
    def windows(self) -> int:
        """How many windows each prompt is padded to."""
        return self.models[0].windows

    @torch.no_grad()
    def encode_groups(self, groups: Sequence[Sequence[str]]) -> list[Conditioning]:
        """Return the features of several lists of prompts, float32; a prompt in several lists is encoded once."""
        prompts = list(dict.fromkeys(chain.from_iterable(groups)))
        with moved_to_device([model.model for model in self.models], self.execution_device):
            features = self.encode(self.by_name, prompts).to(self.device, torch.float32)
        return [features.select([prompts.index(prompt) for prompt in group]) for group in groups]

    @property
    def by_name(self) -> dict[str, TextModel]:
        """The text models by name."""
        return {model.name: model for model in self.models}

    def truncated_end(self, prompt: str) -> str:
        """Return the end of a prompt that is truncated by every text model, or an empty text."""
        return min((model.truncated_end(prompt) for model in self.models), key=len)

    def with_changes(self, changes: Mapping[str, Mapping[str, Change]], strength: float) -> TextEncoder:
        """Return an encoder with an adapter's changes merged in, given by the name of the text model."""
        models = (
            model.with_changes(changes[model.name], strength) if changes.get(model.name) else model
            for model in self.models
        )
        return replace(self, models=tuple(models))

    def with_added_tokens(self, embeddings: Mapping[str, Mapping[str, Tensor]]) -> TextEncoder:
        """Return an encoder with added tokens, given by the name of the text model and the token, [count, width]."""
        models = (
            model.with_added_tokens(embeddings[model.name]) if embeddings.get(model.name) else model
            for model in self.models
        )
        return replace(self, models=tuple(models))

    def with_clip_skip(self, clip_skip: int | None) -> TextEncoder:
        """Return an encoder that uses another layer of CLIP, counted from the last, 1; `None` changes nothing."""
        if clip_skip is None:
            return self
        encode: Any = self.encode  # that of a family with CLIP alone has this field
        return replace(self, encode=replace(encode, clip_skip=clip_skip))

    def to(self, device: torch.device) -> None:
        """Move the models to a device."""
        for model in self.models:
            model.model.to(device)


@dataclass(frozen=True)
class CachedTextEncoder(TextEncoder):
    """An encoder that encodes each prompt once, for a training whose prompts return.

    Attributes:
        known: features by prompt, one row each, on the CPU.
    """

    known: dict[str, Conditioning] = field(default_factory=dict)

    @classmethod
    def of(cls, text: TextEncoder) -> CachedTextEncoder:
        """Return a caching encoder with another one's text models."""
        return cls(text.models, text.encode, text.device, text.execution_device)

    @torch.no_grad()
    def encode_groups(self, groups: Sequence[Sequence[str]]) -> list[Conditioning]:
        """Return the features of several lists of prompts, float32; only new prompts are encoded."""
        new = [prompt for prompt in dict.fromkeys(chain.from_iterable(groups)) if prompt not in self.known]
        device = self.models[0].model.device if self.device is None else self.device
        if new:
            (features,) = super().encode_groups([new])
            self.known.update((prompt, features.select([n]).to(CPU)) for n, prompt in enumerate(new))
        return [concatenate([self.known[prompt] for prompt in group]).to(device) for group in groups]
