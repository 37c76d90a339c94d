"""Captions that a model writes: a BLIP of a few thousand random weights, made from its configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stylescore.diffusion import captioner
from stylescore.diffusion.captioner import find_caption_model
from stylescore.errors import ModelError
from stylescore.images import as_photo

WORDS = ("a", "photo", "of", "the", "red", "blue", "dog", "cat", "tree", "sky")


def save_blip(folder: Path) -> Path:
    """Write a tiny BLIP with random weights, its tokenizer and its image processor."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers import BlipImageProcessor as ImageProcessor

    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]), encoding="utf-8")
    count = len(special) + len(WORDS)
    text = {"vocab_size": count, "bos_token_id": 5, "eos_token_id": 3, "pad_token_id": 0, "sep_token_id": 3}
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**text, **small, "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    BlipProcessor(ImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blip(tmp_path_factory.mktemp("models") / "blip")


def test_a_caption_is_made_of_the_models_words_and_follows_from_the_photo(blip: Path) -> None:
    model = find_caption_model(str(blip))
    assert (model.kind, model.name) == ("blip", "blip")
    loaded = model.load("cpu")
    photo = as_photo(Image.radial_gradient("L").convert("RGB"))
    first, again = loaded.describe(photo), model.load("cpu").describe(photo)
    assert first == again
    assert first
    assert set(first.split()) <= {*WORDS, "[UNK]", "[DEC]", "[ENC]"}


def test_transparent_parts_are_white(blip: Path) -> None:
    loaded = find_caption_model(str(blip)).load("cpu")
    seen: list[Image.Image] = []
    prepare = captioner.Captioner._prepare

    def spy(self: Any, picture: Image.Image) -> Any:
        seen.append(picture)
        return prepare(self, picture)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captioner.Captioner, "_prepare", spy)
        loaded.describe(as_photo(Image.new("RGBA", (32, 32), (0, 0, 0, 0))))
    assert seen[0].getcolors() == [(1024, (255, 255, 255))]


def test_the_usual_ones_are_looked_for_in_the_hubs_cache(blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="neither BLIP nor Florence-2 is in the hub's local cache"):
        find_caption_model(None)
    monkeypatch.setattr(captioner, "cached_transformer", lambda hub_id: blip if "large" in hub_id else None)
    assert find_caption_model(None).name == "Salesforce/blip-image-captioning-large"


def test_weights_in_a_pickle_are_refused(blip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blip, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        find_caption_model(str(folder))


def test_damaged_weights_are_refused(blip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blip, tmp_path / "half")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="truncated"):
        find_caption_model(str(folder))


@pytest.fixture
def run(tmp_path: Path, parity: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from stylescore.cli.main import exit_code

    def call(*more: object) -> tuple[int, str, str]:
        words = ["stylize", parity / "input_128x128.png", "--style", parity / "style_lora_kohya.safetensors"]
        words += ["--model", parity / "tiny_base", "--size", 64, "--iterations", 1, "--output", tmp_path / "out", *more]
        capfd.readouterr()
        code = exit_code([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def test_the_command_line_prints_the_words_and_records_them(blip: Path, run: Callable[..., Any], parity: Path) -> None:
    expected = find_caption_model(str(blip)).load("cpu").describe(as_photo(parity / "input_128x128.png"))
    code, out, err = run("--caption", "auto", "--caption-model", blip)
    assert code == 0, err
    assert f"caption: input_128x128.png: {expected!r}, by blip" in err.splitlines()
    record = (Path(out.strip()).parent / "config.toml").read_text("utf-8")
    assert f'caption = "{expected}"' in record
    assert 'caption_source = "auto"' in record
    code, again, err = run("--caption", "auto", "--caption-model", blip)
    assert (again, "finished before" in err) == (out, True)


def test_without_a_model_one_line_says_so(run: Callable[..., Any]) -> None:
    code, _, err = run("--caption", "auto")
    assert code == 0
    assert sum(line.startswith("note: no automatic captions: neither BLIP nor") for line in err.splitlines()) == 1


def test_a_prompt_and_a_caption_beside_the_photo_win(
    blip: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captioner.Captioner, "describe", lambda *_: pytest.fail("a caption was written"))
    code, out, _ = run("--caption", "auto", "--caption-model", blip, "--prompt", "a dog")
    assert code == 0
    assert 'caption = "a dog"' in (Path(out.strip()).parent / "config.toml").read_text("utf-8")
