"""Prompts are encoded once, by models that may be moved to the device while they run; adapters add tokens."""

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
from stylescore.diffusion.text import TextEncoder, TextModel
from stylescore.errors import StyleError

CPU, CARD, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


class Model(nn.Linear):
    """A text model that records its devices instead of moving there, and the prompts that it receives."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.calls: list[object] = []

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.calls.append(device)
        return self


def encode(models: Mapping[str, TextModel], prompts: Sequence[str]) -> Conditioning:
    """Give each prompt its length."""
    models["text"].model.calls.append(tuple(prompts))
    lengths = torch.tensor([[float(len(prompt))] for prompt in prompts], dtype=torch.float64)
    return Conditioning(lengths[:, None], -lengths)


def encoder(model: Model, **options: Any) -> TextEncoder:
    return TextEncoder((TextModel("text", None, model, 77),), encode, **options)


def test_a_prompt_in_several_lists_is_encoded_once() -> None:
    model = Model()
    first, second = encoder(model).encode_groups([["", "", "cat"], ["house", "cat"]])
    assert model.calls == [("", "cat", "house")]
    assert first.tokens.flatten().tolist() == [0, 0, 3]
    assert second.pooled is not None
    assert second.pooled.flatten().tolist() == [-5, -3]
    assert second.tokens.dtype == torch.float32


def test_models_are_moved_back_after_encoding() -> None:
    model = Model()
    features = encoder(model, device=CPU, execution_device=META)(["cat"])
    assert model.calls == [META, ("cat",), CPU]
    assert features.tokens.tolist() == [[[3]]]


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


def text_model_of(tiny_family: Any) -> TextModel:
    pipeline = tiny_family("sd2").pipeline
    return TextModel("text_encoder", pipeline.tokenizer, pipeline.text_encoder, 77)


def test_an_added_token_is_encoded_as_the_word_whose_embedding_it_has(tiny_family: Any) -> None:
    plain = text_model_of(tiny_family)
    table = plain.model.get_input_embeddings().weight
    ids = {token.removesuffix("</w>"): place for token, place in plain.tokenizer.get_vocab().items() if "</w>" in token}
    whole = [word for word in ids if plain.tokenizer(word, add_special_tokens=False).input_ids == [ids[word]]]
    first, second = whole[:2]
    extended = plain.with_added_tokens({"<s1>": table[ids[first]], "<s2>": table[ids[second]]})

    def encode_with(model: TextModel, prompt: str) -> torch.Tensor:
        features: torch.Tensor = model([prompt], output_hidden_states=True).raw.hidden_states[-2]
        return features

    assert torch.equal(encode_with(extended, "<s2><s1>"), encode_with(plain, f"{second} {first}"))
    assert not torch.equal(encode_with(extended, "<s1>"), encode_with(extended, "<s2>"))
    assert torch.equal(encode_with(extended, "a cat"), encode_with(plain, "a cat"))
    assert "<s1>" not in plain.tokenizer.get_vocab()
    assert len(plain.model.get_input_embeddings().weight) == len(table)


def style_with_tokens(path: Path, pipeline: Any, **tokens: torch.Tensor) -> Path:
    """Write a style as cloneofsimo's trainer did, for the first layer of the text model, with added tokens."""
    width = pipeline.text_encoder.config.hidden_size
    tensors = {"text_encoder:0:down": 0.1 * torch.ones(1, width), "text_encoder:0:up": 0.1 * torch.ones(width, 1)}
    save_file(tensors | {f"<{name}>": embedding for name, embedding in tokens.items()}, path)
    return path


def stylizer_with(tiny: Any, *styles: Path, **more: Any) -> Stylizer:
    chosen = tuple(StyleChoice(name=str(path)) for path in styles)
    run = RunConfig(model=str(tiny.folder), styles=chosen, size=64, execution=ExecutionConfig(device="cpu"))
    return Stylizer(replace(run, **more))


def test_added_tokens_of_a_style_reach_base_and_style_and_make_its_prompt(tiny_family: Any, tmp_path: Path) -> None:
    tiny = tiny_family("sd2")
    width = tiny.pipeline.text_encoder.config.hidden_size
    path = style_with_tokens(tmp_path / "a.safetensors", tiny.pipeline, s1=torch.ones(width), s2=-torch.ones(width))
    stylizer = stylizer_with(tiny, path)
    models = stylizer._networks
    assert stylizer.style_prompt == "<s1><s2>"
    told = [text(["<s1>", "<s2>", "a cat"]).tokens for text in (models.text, models.style_text)]
    plain = stylizer_with(tiny, tiny.lora)._networks.text(["<s1>", "<s2>", "a cat"]).tokens
    assert torch.equal(told[0][2], plain[2])
    assert not torch.equal(told[0][0], plain[0])
    assert not torch.allclose(told[0], told[1])  # the style's text model is changed besides
    assert stylizer_with(tiny, path, style_prompt="ink").style_prompt == "ink"


def test_tokens_that_cannot_be_added_are_refused(tiny_family: Any, tmp_path: Path) -> None:
    tiny = tiny_family("sd2")
    width = tiny.pipeline.text_encoder.config.hidden_size
    one = style_with_tokens(tmp_path / "one.safetensors", tiny.pipeline, s1=torch.ones(width))
    two = style_with_tokens(tmp_path / "two.safetensors", tiny.pipeline, s1=torch.zeros(width))
    wide = style_with_tokens(tmp_path / "wide.safetensors", tiny.pipeline, s1=torch.ones(width + 1))
    with pytest.raises(StyleError, match=r"two\.safetensors' adds the token '<s1>', and so does another style"):
        stylizer_with(tiny, one, two)
    with pytest.raises(StyleError, match=rf"token '<s1>' has the width {width + 1}, those of the model"):
        stylizer_with(tiny, wide)
