"""Prompts are read once, by models that may only be visitors where they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.execution import ExecutionConfig
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.text import Reader, TextEncoder
from stylescore.errors import StyleError

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


def test_device_placement_of_a_run() -> None:
    run, low, away = (ExecutionConfig(memory=memory) for memory in ("normal", "low", "offload"))
    assert DevicePlacement.of_run(CARD, run) == DevicePlacement(
        network=CARD, weights=CARD, codec=CARD, texts=CPU, encoding=CARD
    )
    assert DevicePlacement.of_run(CARD, low) == DevicePlacement(
        network=CARD, weights=CARD, codec=CPU, texts=CPU, encoding=CPU
    )
    assert DevicePlacement.of_run(CARD, away) == DevicePlacement(
        network=CARD, weights=CPU, codec=CPU, texts=CPU, encoding=CPU
    )
    assert DevicePlacement.of_run(CPU, run) == DevicePlacement.on(CPU)


def reader_of(tiny_family: Any) -> Reader:
    pipeline = tiny_family("sd2").pipeline
    return Reader("text_encoder", pipeline.tokenizer, pipeline.text_encoder, 77)


def test_a_word_that_is_taught_reads_as_the_word_whose_embedding_it_has(tiny_family: Any) -> None:
    reader = reader_of(tiny_family)
    table = reader.model.get_input_embeddings().weight
    ids = {
        token.removesuffix("</w>"): place for token, place in reader.tokenizer.get_vocab().items() if "</w>" in token
    }
    whole = [word for word in ids if reader.tokenizer(word, add_special_tokens=False).input_ids == [ids[word]]]
    first, second = whole[:2]
    taught = reader.taught({"<s1>": table[ids[first]], "<s2>": table[ids[second]]})

    def read(by: Reader, prompt: str) -> torch.Tensor:
        features: torch.Tensor = by([prompt], output_hidden_states=True).hidden_states[-2]
        return features

    assert torch.equal(read(taught, "<s2><s1>"), read(reader, f"{second} {first}"))
    assert not torch.equal(read(taught, "<s1>"), read(taught, "<s2>"))
    assert torch.equal(read(taught, "a cat"), read(reader, "a cat"))
    assert "<s1>" not in reader.tokenizer.get_vocab()
    assert len(reader.model.get_input_embeddings().weight) == len(table)


def style_with_words(path: Path, pipeline: Any, **words: torch.Tensor) -> Path:
    """Write a style as cloneofsimo's trainer did, for the first layer of the text model, with new words."""
    width = pipeline.text_encoder.config.hidden_size
    tensors = {"text_encoder:0:down": 0.1 * torch.ones(1, width), "text_encoder:0:up": 0.1 * torch.ones(width, 1)}
    save_file(tensors | {f"<{name}>": embedding for name, embedding in words.items()}, path)
    return path


def stylizer_with(tiny: Any, *styles: Path, **more: Any) -> Stylizer:
    chosen = tuple(StyleChoice(name=str(path)) for path in styles)
    run = RunConfig(model=str(tiny.folder), styles=chosen, size=64, execution=ExecutionConfig(device="cpu"))
    return Stylizer(replace(run, **more))


def test_words_of_a_style_are_told_to_base_and_style_and_make_its_prompt(tiny_family: Any, tmp_path: Path) -> None:
    tiny = tiny_family("sd2")
    width = tiny.pipeline.text_encoder.config.hidden_size
    path = style_with_words(tmp_path / "a.safetensors", tiny.pipeline, s1=torch.ones(width), s2=-torch.ones(width))
    stylizer = stylizer_with(tiny, path)
    models = stylizer._networks
    assert stylizer.style_prompt == "<s1><s2>"
    told = [text(["<s1>", "<s2>", "a cat"]).tokens for text in (models.text, models.style_text)]
    plain = stylizer_with(tiny, tiny.lora)._networks.text(["<s1>", "<s2>", "a cat"]).tokens
    assert torch.equal(told[0][2], plain[2])
    assert not torch.equal(told[0][0], plain[0])
    assert not torch.allclose(told[0], told[1])  # the style's text model is changed besides
    assert stylizer_with(tiny, path, style_prompt="ink").style_prompt == "ink"


def test_words_that_cannot_be_taught_are_refused(tiny_family: Any, tmp_path: Path) -> None:
    tiny = tiny_family("sd2")
    width = tiny.pipeline.text_encoder.config.hidden_size
    one = style_with_words(tmp_path / "one.safetensors", tiny.pipeline, s1=torch.ones(width))
    two = style_with_words(tmp_path / "two.safetensors", tiny.pipeline, s1=torch.zeros(width))
    wide = style_with_words(tmp_path / "wide.safetensors", tiny.pipeline, s1=torch.ones(width + 1))
    with pytest.raises(StyleError, match=r"two\.safetensors' adds the token '<s1>', and so does another style"):
        stylizer_with(tiny, one, two)
    with pytest.raises(StyleError, match=rf"token '<s1>' has the shape \({width + 1},\), those of the model"):
        stylizer_with(tiny, wide)
