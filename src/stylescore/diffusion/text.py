"""Prompts to what the network reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from stylescore.diffusion.adapters import merge
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.execution.memory import visiting
from stylescore.lora import Change


@dataclass(frozen=True)
class Reader:
    """A text model with its tokenizer.

    Attributes:
        name: of the model, as its folder is called: `text_encoder`, `text_encoder_2`, ...
        tokenizer: a transformers tokenizer.
        model: a transformers text model.
        length: how many tokens it reads, the special ones included; shorter prompts are padded, without a mask.
    """

    name: str
    tokenizer: Any
    model: Any
    length: int

    def __call__(self, prompts: Sequence[str], **options: bool) -> Any:
        """Return the model's output for the prompts."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return self.model(tokens.input_ids.to(self.model.device), **options)

    def cut(self, prompt: str) -> str:
        """Return the end of a prompt that the model does not read, or an empty string."""
        ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        room = self.length - self.tokenizer.num_special_tokens_to_add(False)
        return str(self.tokenizer.decode(ids[room:])).strip() if len(ids) > room else ""

    def changed(self, deltas: Mapping[str, Change], strength: float) -> Reader:
        """Return a reader with an adapter's changes merged in; this one stays as it is."""
        model = deepcopy(self.model)
        merge(model, deltas, strength)
        return replace(self, model=model)

    def taught(self, words: Mapping[str, Tensor]) -> Reader:
        """Return a reader that knows more words, by their embeddings, [width] each; this one stays as it is."""
        tokenizer, model = deepcopy(self.tokenizer), deepcopy(self.model)
        tokenizer.add_tokens(list(words))
        known = model.get_input_embeddings()
        model.resize_token_embeddings(max(len(tokenizer), known.num_embeddings), mean_resizing=False)
        table = model.get_input_embeddings().weight.requires_grad_(False)
        for word, embedding in words.items():
            table[tokenizer.convert_tokens_to_ids(word)] = embedding.to(table)
        return replace(self, tokenizer=tokenizer, model=model)

    @property
    def width(self) -> int:
        """Width of a word's embedding."""
        return int(self.model.get_input_embeddings().embedding_dim)


Encode = Callable[[Mapping[str, Reader], Sequence[str]], Conditioning]
"""A family's way from its readers, by name, and prompts to what its network reads."""


@dataclass(frozen=True)
class TextEncoder:
    """All text models of a diffusion model.

    Attributes:
        readers: in the family's order; a model may lack one.
        encode: how the family puts their outputs together.
        device: where features are put; `None` leaves them where the models read.
        visits: the device that the models are moved to while they read; `None` leaves them where they are.
    """

    readers: tuple[Reader, ...]
    encode: Encode
    device: torch.device | None = None
    visits: torch.device | None = None

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return the features of the prompts, float32."""
        return self.groups([prompts])[0]

    @torch.no_grad()
    def groups(self, groups: Sequence[Sequence[str]]) -> list[Conditioning]:
        """Return the features of lists of prompts, float32; a prompt is read once, however many lists it is in."""
        different = list(dict.fromkeys(chain.from_iterable(groups)))
        with visiting([reader.model for reader in self.readers], self.visits):
            read = self.encode(self.by_name, different).to(self.device, torch.float32)
        return [read.rows([different.index(prompt) for prompt in group]) for group in groups]

    @property
    def by_name(self) -> dict[str, Reader]:
        """The readers by the names of their models."""
        return {reader.name: reader for reader in self.readers}

    def cut(self, prompt: str) -> str:
        """Return the end of a prompt that none of the models reads, or an empty string."""
        return min((reader.cut(prompt) for reader in self.readers), key=len)

    def with_deltas(self, deltas: Mapping[str, Mapping[str, Change]], strength: float) -> TextEncoder:
        """Return an encoder with an adapter's changes merged in, given for each model by its name."""
        readers = (
            reader.changed(deltas[reader.name], strength) if deltas.get(reader.name) else reader
            for reader in self.readers
        )
        return replace(self, readers=tuple(readers))

    def taught(self, words: Mapping[str, Tensor]) -> TextEncoder:
        """Return an encoder whose first reader knows more words, by their embeddings."""
        if not words:
            return self
        return replace(self, readers=(self.readers[0].taught(words), *self.readers[1:]))

    def to(self, device: torch.device) -> None:
        """Move the models."""
        for reader in self.readers:
            reader.model.to(device)
