"""Encodes prompts with a model's text models, and adds an adapter's changes and tokens to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from stylescore.diffusion.adapters import merge
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.diffusion.execution.memory import moved_to_device
from stylescore.lora import Change

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TextModel:
    """A text model with its tokenizer.

    Attributes:
        name: the subfolder of the model: `text_encoder`, `text_encoder_2`, ...
        tokenizer: a transformers tokenizer.
        model: a transformers text model.
        max_length: tokens per prompt, special ones included; shorter prompts are padded, without a mask.
    """

    name: str
    tokenizer: Any
    model: Any
    max_length: int

    def __call__(self, prompts: Sequence[str], **options: bool) -> Any:
        """Return the model's output for the prompts."""
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        return self.model(tokens.input_ids.to(self.model.device), **options)

    def truncated_end(self, prompt: str) -> str:
        """Return the end of a prompt that is truncated because the prompt is too long, or an empty text."""
        ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(False)
        return str(self.tokenizer.decode(ids[room:])).strip() if len(ids) > room else ""

    def with_changes(self, changes: Mapping[str, Change], strength: float) -> TextModel:
        """Return a copy with an adapter's changes merged into its weights."""
        model = deepcopy(self.model)
        merge(model, changes, strength)
        return replace(self, model=model)

    def with_added_tokens(self, embeddings: Mapping[str, Tensor]) -> TextModel:
        """Return a copy with added tokens, given by their embeddings, [width] each (textual inversion)."""
        tokenizer, model = deepcopy(self.tokenizer), deepcopy(self.model)
        tokenizer.add_tokens(list(embeddings))
        present = model.get_input_embeddings()
        model.resize_token_embeddings(max(len(tokenizer), present.num_embeddings), mean_resizing=False)
        table = model.get_input_embeddings().weight.requires_grad_(False)
        for token, embedding in embeddings.items():
            table[tokenizer.convert_tokens_to_ids(token)] = embedding.to(table)
        return replace(self, tokenizer=tokenizer, model=model)

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
    """

    models: tuple[TextModel, ...]
    encode: Encode
    device: torch.device | None = None
    execution_device: torch.device | None = None

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return the features of the prompts, float32."""
        return self.encode_groups([prompts])[0]

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

    def with_added_tokens(self, embeddings: Mapping[str, Tensor]) -> TextEncoder:
        """Return an encoder whose first text model has added tokens, given by their embeddings, [width] each."""
        if not embeddings:
            return self
        return replace(self, models=(self.models[0].with_added_tokens(embeddings), *self.models[1:]))

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
