"""Prompts are read once, by models that may only be visitors where they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.devices import Places
from stylescore.diffusion.text import Reader, TextEncoder

CPU, CARD, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


class Model(nn.Linear):
    """A text model that notes where it is sent instead of going there, and what it is told."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.told: list[object] = []

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.told.append(device)
        return self


def encode(readers: Mapping[str, Reader], prompts: Sequence[str]) -> Conditioning:
    """Give each prompt its length."""
    readers["text"].model.told.append(tuple(prompts))
    lengths = torch.tensor([[float(len(prompt))] for prompt in prompts], dtype=torch.float64)
    return Conditioning(lengths[:, None], -lengths)


def encoder(model: Model, **options: Any) -> TextEncoder:
    return TextEncoder((Reader("text", None, model, 77),), encode, **options)


def test_a_prompt_is_read_once_and_stands_in_every_list_it_is_in() -> None:
    model = Model()
    first, second = encoder(model).groups([["", "", "cat"], ["house", "cat"]])
    assert model.told == [("", "cat", "house")]
    assert first.tokens.flatten().tolist() == [0, 0, 3]
    assert second.pooled is not None
    assert second.pooled.flatten().tolist() == [-5, -3]
    assert second.tokens.dtype == torch.float32


def test_models_are_sent_home_before_anything_else_happens() -> None:
    model = Model()
    read = encoder(model, device=CPU, visits=META)(["cat"])
    assert model.told == [META, ("cat",), CPU]
    assert read.tokens.tolist() == [[[3]]]


def test_places_of_a_run() -> None:
    assert Places.of_run(CARD, low_memory=False) == Places(network=CARD, codec=CARD, texts=CPU, reading=CARD)
    assert Places.of_run(CARD, low_memory=True) == Places(network=CARD, codec=CPU, texts=CPU, reading=CPU)
    assert Places.of_run(CPU, low_memory=False) == Places.on(CPU)
