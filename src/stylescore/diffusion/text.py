"""Prompts to what the U-Net reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from stylescore.diffusion.adapters import merge
from stylescore.diffusion.backbone import Context
from stylescore.diffusion.lora import LowRank


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP tokenizer and text model.

    Attributes:
        tokenizer: a transformers `CLIPTokenizer`.
        model: a transformers `CLIPTextModel`.
    """

    tokenizer: Any
    model: Any

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Context:
        """Return the last hidden states, final layer norm included, padded to the model's length, no mask."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        hidden: Context = self.model(tokens.input_ids.to(self.model.device)).last_hidden_state
        return hidden.float()

    def cut(self, prompt: str) -> str:
        """Return the end of a prompt that the model does not read, or an empty string."""
        ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
        room = self.tokenizer.model_max_length - 2
        return str(self.tokenizer.decode(ids[room:])).strip() if len(ids) > room else ""

    def with_deltas(self, deltas: Mapping[str, LowRank], strength: float) -> TextEncoder:
        """Return an encoder with an adapter's text part merged in; this one stays as it is."""
        if not deltas:
            return self
        model = deepcopy(self.model)
        merge(model, deltas, strength)
        return TextEncoder(self.tokenizer, model)
