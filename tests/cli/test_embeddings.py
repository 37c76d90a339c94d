"""Textual inversion and notes about LoRAs, through the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylescore_apply.storage.files import sha256

PARITY = Path(__file__).parent.parent / "data" / "parity"


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()


@pytest.fixture
def vectors(tiny: Path) -> torch.Tensor:
    table = load_file(tiny / "text_encoder" / "model.safetensors")
    width = next(tensor.shape[1] for name, tensor in table.items() if name.endswith("token_embedding.weight"))
    return 5 * torch.randn(2, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def embedding(tmp_path: Path, vectors: torch.Tensor) -> Path:
    save_file({"emb_params": vectors}, tmp_path / "my-word.safetensors")
    return tmp_path / "my-word.safetensors"


def test_an_embedding_changes_the_picture_where_a_prompt_has_its_word(
    stylize: Callable[..., Any], photo: Path, embedding: Path
) -> None:
    given = ("--embedding", f"my-word={embedding}")
    plain = stylize(photo, "--prompt", "a my-word").picture
    used = stylize(photo, "--prompt", "a my-word", *given).picture
    without, unused = (stylize(photo, "--prompt", "a dog", *more).picture for more in ((), given))
    assert pixels(used) != pixels(plain)
    assert pixels(unused) == pixels(without)
    record = tomllib.loads((used.parent / "config.toml").read_text("utf-8"))
    assert record["run"]["embeddings"] == [{"token": "my-word", "file": str(embedding)}]
    assert record["hashes"]["embedding"] == [sha256(embedding)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"emb_params": torch.ones(1, 3)}, "the embedding of its token 'my-word' has the width 3"),
        ({"x": torch.ones(1, 3), "y": torch.ones(1)}, "is no textual inversion embedding: it has 2 tensors"),
    ],
)
def test_an_embedding_that_cannot_be_used_is_one_line(
    stylize: Callable[..., Any], photo: Path, tmp_path: Path, content: dict[str, torch.Tensor], message: str
) -> None:
    save_file(content, tmp_path / "bad.safetensors")
    outcome = stylize(photo, "--quiet", "--embedding", f"my-word={tmp_path / 'bad.safetensors'}")
    assert outcome.code == 2
    assert message in outcome.complaint[0]


def test_a_pickled_or_missing_embedding_is_one_line(stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(1, 3)}}, tmp_path / "a.pt")
    outcome = stylize(photo, "--quiet", "--embedding", f"my-word={tmp_path / 'a.pt'}")
    assert "it may run code when loaded" in outcome.complaint[0]
    outcome = stylize(photo, "--quiet", "--embedding", "my-word=nowhere.safetensors")
    assert "there is no embedding 'nowhere.safetensors'" in outcome.complaint[0]


def test_inspecting_an_embedding_says_how_to_use_it(program: Callable[..., Any], embedding: Path) -> None:
    out = program("inspect", embedding).out
    assert "is a text embedding, not a LoRA" in out
    assert f"--embedding NAME={embedding}" in out


def test_a_lora_says_what_is_assumed_and_what_is_left_out(
    stylize: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    tensors = load_file(PARITY / "style_lora_kohya.safetensors")
    text = {name: tensor for name, tensor in tensors.items() if "lora_te_" in name and "alpha" not in name}
    save_file(text, tmp_path / "words.safetensors")
    outcome = stylize(photo, "--preset", "reference", "--style", tmp_path / "words.safetensors", quiet=False)
    notes = [line for line in outcome.err.splitlines() if line.startswith("note: words: ")]
    assert notes == [
        "note: words: alpha = rank, as the file states no alpha",
        "note: words: its changes of the text encoder are left out, as text_encoder_lora = false; it changes nothing "
        "else and has no effect",
    ]
