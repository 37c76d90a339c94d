"""Textual inversion: words of prompts that stand for vectors, from files of their own and in LoRAs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import MethodConfig
from stylescore.config.run import EmbeddingChoice, RunConfig, StyleChoice
from stylescore.diffusion.text import TextModel
from stylescore.diffusion.tokens import AddedTokens
from stylescore.errors import ConfigError, StyleError
from stylescore.lora import describe, read_embedding

PROMPT = "a house by My-Style, red"


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def save(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def stylizer(tiny: Any, *styles: Path, **more: Any) -> Stylizer:
    chosen = tuple(StyleChoice(name=str(path)) for path in styles or (tiny.lora,))
    run = RunConfig(model=str(tiny.folder), styles=chosen, size=64, execution=ExecutionConfig(device="cpu"))
    return Stylizer(replace(run, **more))


def features(tiny: Any, prompt: str, token: str, *files: Path) -> Tensor:
    embeddings = tuple(EmbeddingChoice(token=token, file=str(path)) for path in files)
    return stylizer(tiny, embeddings=embeddings)._networks.text([prompt]).tokens


def widths(tiny: Any) -> tuple[int, ...]:
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    models = filter(None, (getattr(tiny.pipeline, name, None) for name in names))
    return tuple(model.get_input_embeddings().embedding_dim for model in models)


ONE_ENCODER = ("emb_params", "string_to_param.*", "<my-style>", "clip_l", "embedding")


@pytest.mark.parametrize("key", ONE_ENCODER)
@pytest.mark.parametrize("count", [1, 3])
def test_every_layout_of_a_file_is_encoded_as_diffusers_encodes_it(
    tiny_family: Any, tmp_path: Path, key: str, count: int
) -> None:
    tiny = tiny_family("sd2")
    vectors = draw(1, count, widths(tiny)[0])
    found = features(tiny, PROMPT, "my-style", save(tmp_path / "a.safetensors", {key: vectors}))
    theirs = deepcopy(tiny.pipeline)
    theirs.load_textual_inversion({"<new>": vectors}, token="<new>")
    prompt = theirs.maybe_convert_prompt(PROMPT.replace("My-Style", "<new>"), theirs.tokenizer)
    wanted = TextModel("text_encoder", theirs.tokenizer, theirs.text_encoder, 77)([prompt])
    plain = TextModel("text_encoder", tiny.pipeline.tokenizer, tiny.pipeline.text_encoder, 77)([PROMPT])
    assert torch.equal(found, wanted.raw.last_hidden_state)
    assert not torch.allclose(found, plain.raw.last_hidden_state)


def test_both_encoders_of_sdxl_get_their_own_vectors(tiny_family: Any, tmp_path: Path) -> None:
    tiny = tiny_family("sdxl")
    first, second = (draw(n, 2, width) for n, width in enumerate(widths(tiny)))
    together = save(tmp_path / "a.safetensors", {"clip_l": first, "clip_g": second})
    found = features(tiny, PROMPT, "my-style", together)
    theirs = deepcopy(tiny.pipeline)
    wanted = []
    for vectors, suffix in ((first, ""), (second, "_2")):
        tokenizer, model = getattr(theirs, f"tokenizer{suffix}"), getattr(theirs, f"text_encoder{suffix}")
        theirs.load_textual_inversion({"<new>": vectors}, token="<new>", tokenizer=tokenizer, text_encoder=model)
        prompt = theirs.maybe_convert_prompt(PROMPT.replace("My-Style", "<new>"), tokenizer)
        output = TextModel("", tokenizer, model, 77)([prompt], output_hidden_states=True)
        wanted.append(output.raw.hidden_states[-2])
    torch.testing.assert_close(found, torch.cat(wanted, dim=-1))
    apart = [save(tmp_path / f"{n}.safetensors", {"<new>": vectors}) for n, vectors in enumerate((first, second))]
    assert torch.equal(features(tiny, PROMPT, "my-style", *apart), found)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("text_encoders_0", "text_encoders_1"), {"clip_l", "clip_g"}),
        (("clip_l", "clip_g", "t5xxl"), {"clip_l", "clip_g", "t5"}),
    ],
)
def test_other_spellings_of_the_encoders(tmp_path: Path, given: tuple[str, ...], wanted: set[str]) -> None:
    path = save(tmp_path / "a.safetensors", {name: draw(n, 2, 8) for n, name in enumerate(given)})
    assert set(read_embedding(path).vectors) == wanted


def test_a_word_stands_for_its_vectors_only_as_a_whole_word(tiny_family: Any) -> None:
    tokenizer = AddedTokens(tiny_family("sd2").pipeline.tokenizer, {"cat": ("<1>", "<2>"), "my cat": ("<3>",)})
    assert tokenizer.expand("a Cat, concat, cats, my CAT; cat") == "a <1><2>, concat, cats, <3>; <1><2>"
    assert AddedTokens(None, {"<s1>": ("<1>",), "<s2>": ("<2>",)}).expand("ink<s1><S2>x") == "ink<1><2>x"


def test_a_truncated_end_shows_the_words_that_were_written(tiny_family: Any) -> None:
    pipeline = tiny_family("sd2").pipeline
    model = TextModel("text_encoder", pipeline.tokenizer, pipeline.text_encoder, 77)
    extended = model.with_added_tokens({"my-style": draw(1, 2, model.width)})
    for words in (73, 74, 75):
        end = extended.truncated_end("red " * words + "my-style house").replace("</w>", "")
        assert end == ("my-style house" if words > 73 else "house")


BUNDLES = {
    "kohya": ("string_to_param.*",),
    "kohya, with notes": ("string_to_param.*", "string_to_token.*"),
    "emb_params": ("emb_params",),
    "OneTrainer": ("clip_l",),
}


@pytest.mark.parametrize("layout", BUNDLES)
def test_an_embedding_bundled_in_a_lora_is_used(tiny_family: Any, tmp_path: Path, layout: str) -> None:
    tiny, width = tiny_family("sd2"), widths(tiny_family("sd2"))[0]
    bundle = {f"bundle_emb.my-style.{key}": draw(1, 2, width) for key in BUNDLES[layout][:1]}
    bundle |= {f"bundle_emb.my-style.{key}": torch.tensor([265]) for key in BUNDLES[layout][1:]}
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    factors = {f"{stem}.lora_A.weight": draw(2, 1, width), f"{stem}.lora_B.weight": draw(3, width, 1)}
    path = save(tmp_path / "a.safetensors", factors | bundle)
    assert describe(path).added_tokens == ("my-style",)
    used = stylizer(tiny, path)
    assert used.style_prompt == "my-style"
    alone = save(tmp_path / "b.safetensors", {"emb_params": draw(1, 2, width)})
    assert torch.equal(used._networks.text([PROMPT]).tokens, features(tiny, PROMPT, "my-style", alone))


def test_what_a_file_lacks_is_refused_or_said(tiny_family: Any, tmp_path: Path) -> None:
    sdxl, flux = tiny_family("sdxl"), tiny_family("flux-dev")
    first = draw(1, 1, widths(sdxl)[0])
    for key in ("emb_params", "clip_l"):
        path = save(tmp_path / f"{key}.safetensors", {key: first})
        with pytest.raises(
            StyleError, match="has no vectors for text_encoder_2, so that it was made for another family"
        ):
            features(sdxl, PROMPT, "my-style", path)
    path = save(tmp_path / "flux.safetensors", {"clip_l": draw(1, 1, widths(flux)[0])})
    notes = stylizer(flux, embeddings=(EmbeddingChoice(token="my-style", file=str(path)),)).notes
    assert "text_encoder_2 has no vectors for 'my-style' and reads it as plain letters" in notes
    both = {"clip_l": draw(1, 2, widths(flux)[0]), "t5": draw(2, 2, widths(flux)[1])}
    path = save(tmp_path / "both.safetensors", both)
    used = stylizer(flux, embeddings=(EmbeddingChoice(token="cat", file=str(path)),))
    assert not any("plain letters" in note for note in used.notes)
    assert not torch.equal(used._networks.text(["a cat"]).tokens, stylizer(flux)._networks.text(["a cat"]).tokens)


BAD = {
    "has output embeddings": {"clip_l": draw(1, 1, 16), "clip_l_out": draw(1, 1, 16)},
    "has an embedding of shape": {"emb_params": draw(1, 1, 2, 16)},
    "whose numbers are integers or not finite": {"emb_params": torch.full((1, 16), float("nan"))},
    "has different numbers of vectors": {"clip_l": draw(1, 1, 16), "clip_g": draw(1, 2, 24)},
    "that name no text encoder": {"emb_params": draw(1, 1, 16), "<a>": draw(1, 1, 16)},
    "is no textual inversion embedding: it has 2 tensors": {"x.weight": draw(1, 4), "y.weight": draw(1, 4)},
    "has the width 17, those of the model have 16": {"emb_params": draw(1, 1, 17)},
    "has vectors for clip_g, the model has no such text encoder": {"clip_g": draw(1, 1, 16)},
}


@pytest.mark.parametrize("reason", BAD)
def test_embeddings_that_cannot_be_used(tiny_family: Any, tmp_path: Path, reason: str) -> None:
    path = save(tmp_path / "a.safetensors", BAD[reason])
    with pytest.raises(StyleError, match=reason) as caught:
        features(tiny_family("sd2"), PROMPT, "my-style", path)
    assert caught.value.hint


def test_one_word_for_two_embeddings_is_refused(tiny_family: Any, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.safetensors", {"emb_params": draw(n, 1, 16)}) for n in (1, 2)]
    with pytest.raises(StyleError, match="adds the token 'my-style', and so does another"):
        features(tiny_family("sd2"), PROMPT, "my-style", *paths)


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": draw(1, 1, 16)}}, tmp_path / "a.pt")
    with pytest.raises(StyleError, match="not a textual inversion embedding: it may run code") as caught:
        read_embedding(tmp_path / "a.pt")
    assert ".safetensors" in str(caught.value.hint)
    with pytest.raises(StyleError, match="there is no file"):
        read_embedding(tmp_path / "b.safetensors")


@pytest.mark.parametrize("token", ["", " a", "a\n", "x" * 101])
def test_a_word_that_cannot_stand_in_a_prompt(tiny_family: Any, token: str) -> None:
    with pytest.raises(ConfigError, match="an embedding's name must be 1 to 100 letters"):
        stylizer(tiny_family("sd2"), embeddings=(EmbeddingChoice(token=token, file="a.safetensors"),))


def test_a_style_says_what_of_it_has_no_effect(tiny_family: Any, tmp_path: Path) -> None:
    tiny, width = tiny_family("sd2"), 16
    tensors = {}
    for layer in (0, 2, 3):
        stem = f"text_encoder.text_model.encoder.layers.{layer}.self_attn.q_proj"
        tensors |= {f"{stem}.lora_A.weight": draw(2, 1, width), f"{stem}.lora_B.weight": draw(3, width, 1)}
    path = save(tmp_path / "words.safetensors", tensors)
    notes = stylizer(tiny, path, method=MethodConfig(text_encoder_lora=True)).notes
    assert notes == (
        "words: alpha = rank, as the file states no alpha",
        "words: its changes of layer 4 are left out, which the model's text_encoder lacks",
    )
    silent = stylizer(tiny, path, method=MethodConfig(text_encoder_lora=False)).notes
    assert silent[1:] == (
        "words: its changes of the text encoder are left out, as text_encoder_lora = false; it changes nothing else "
        "and has no effect",
    )
