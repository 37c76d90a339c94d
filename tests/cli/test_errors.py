"""Bad input: one line that says what is wrong, one that says what to do, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

PARITY = Path(__file__).parent.parent / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
STYLE = PARITY / "style_lora_kohya.safetensors"
TINY = PARITY / "tiny_base"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(path: Path) -> None:
    """Write a small PNG that claims to hold 2.5 thousand million pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def sdxl_lora(path: Path) -> None:
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.lora_down.weight": torch.zeros(4, 2048), f"{stem}.lora_up.weight": torch.zeros(640, 4)}
    save_file(tensors, path, {"ss_base_model_version": "sdxl_base_v1-0"})


def lying_lora(path: Path) -> None:
    """Write a LoRA whose header gives one tensor more rows than it has bytes for."""
    content = STYLE.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = next(key for key, entry in header.items() if "shape" in entry and len(entry["shape"]) == 2)
    header[name]["shape"][0] *= 1000
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def nan_lora(path: Path) -> None:
    tensors = load_file(STYLE)
    name = next(key for key in sorted(tensors) if key.endswith("lora_up.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path)


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weights": [1.0]}))


BAD_FILES: dict[str, Callable[[Path], Any]] = {
    "words.png": lambda path: path.write_text("these are words", encoding="utf-8"),
    "half.png": lambda path: path.write_bytes(PHOTO.read_bytes()[:15_000]),
    "empty.png": lambda path: path.write_bytes(b""),
    "dot.png": lambda path: Image.new("RGB", (1, 1)).save(path),
    "bomb.png": bomb,
    "folder.png": lambda path: path.mkdir(),
    "strip.png": lambda path: Image.new("RGB", (400, 20)).save(path),
    "sdxl.safetensors": sdxl_lora,
    "half.safetensors": lambda path: path.write_bytes(STYLE.read_bytes()[:20_000]),
    "lying.safetensors": lying_lora,
    "nan.safetensors": nan_lora,
    "empty.safetensors": lambda path: path.write_bytes(b""),
    "style.pt": pickled,
    "style.ckpt": lambda path: torch.save({"weights": torch.zeros(2)}, path),
    "model.ckpt": lambda path: torch.save({"state_dict": {}}, path),
    "model": lambda path: path.mkdir(),
    "broken.toml": lambda path: path.write_text("iterations = = 3", encoding="utf-8"),
    "typo.toml": lambda path: path.write_text("iteratoins = 3", encoding="utf-8"),
    "methods.toml": lambda path: path.write_text("methods = 3", encoding="utf-8"),
    "method.toml": lambda path: path.write_text("[methods.smd]\niterations = 3", encoding="utf-8"),
    "a_file": lambda path: path.write_text("", encoding="utf-8"),
}

AGAIN = "copy the file again from its source, or open it in a picture viewer and save it again"
PICKLE_ADVICE = "get the same file as .safetensors, or convert it in an environment where running its code does no harm"
DOWNLOAD = "download the file again"
HELP = "see stylescore stylize --help"
ANY = ""

# Arguments beside the tiny model and style, the error, the hint. {here} is a folder that holds the files above,
# {photo} a good photo, {lora} a good style, and an error that ends in "..." is given by its beginning.
TABLE: list[tuple[str, str, str]] = [
    ("{here}/none.png", "there is no file '{here}/none.png'", ANY),
    ("{here}/words.png", "'{here}/words.png' is a text file, not a picture", ANY),
    ("{here}/half.png", "the picture '{here}/half.png' is damaged or incomplete: ...", AGAIN),
    ("{here}/empty.png", "the file '{here}/empty.png' is empty (0 bytes)", AGAIN),
    (
        "{here}/dot.png",
        "the picture '{here}/dot.png' is 1 x 1 pixels; each side must have at least 8",
        "use a larger picture",
    ),
    ("{here}/bomb.png", "the picture '{here}/bomb.png' has ...", "scale it down first"),
    ("{here}/folder.png", "there are no pictures in '{here}/folder.png'", "add --recursive to search ..."),
    ("{here}/*.webp", "no picture fits '{here}/*.webp'", ANY),
    ("{photo} {here}/none.png", "there is no file '{here}/none.png'", ANY),
    ("--list {here}/none.txt", "the list '{here}/none.txt' cannot be read: No such file or directory", ANY),
    ("--list {here}/a_file", "the list '{here}/a_file' names no photo", "write one photo a line"),
    ("{photo} --list {photo}", "the list '{photo}' cannot be read: it is not UTF-8 text", ANY),
    ("{photo} --captions {here}/none.csv", "the captions '{here}/none.csv' cannot be read: ...", ANY),
    ("{photo} --caption blip", "--caption must be one of files, auto, none, not 'blip'", ANY),
    ("{photo} --caption-model {here}", "--caption-model needs --caption auto", ANY),
    (
        "{photo} --caption auto --caption-model {here}/model",
        "'{here}/model' is no caption model: it has no config.json",
        "give --caption-model a folder with BLIP or Florence-2 ...",
    ),
    ("{photo} --caption auto --caption-model {tiny}/vae", "'vae' is a None model, not BLIP or Florence-2", ANY),
    ("{photo} --caption auto --caption-model {here}/none", "there is no caption model '{here}/none'", ANY),
    ("{photo} --caption auto --caption-model some/body", "the model 'some/body' cannot be fetched: ...", ANY),
    ("{photo} --mask {here}/none.png", "there is no file '{here}/none.png'", ANY),
    ("{photo} --mask {here}/half.png", "the picture '{here}/half.png' is damaged or incomplete: ...", AGAIN),
    (
        "{photo} --mask {here}/strip.png",
        "the mask '{here}/strip.png' has another aspect ratio than its photo: ...",
        ANY,
    ),
    (
        "{photo} --mask {here}/folder.png",
        "there is no mask for 'input_128x128.png' in '{here}/folder.png'",
        "call it input_128x128.png, or leave the photo out",
    ),
    ("{photo} --mask-feather -1", "mask_feather must be 0 or more, not -1", ANY),
    ("{photo} --keep-colours 2", "keep_colours must be between 0 and 1, not 2.0", ANY),
    ("{photo} --format gif", "format must be one of png, jpeg, webp, not 'gif'", ANY),
    ("{photo} --format jpeg --quality 0", "quality must be between 1 and 100, not 0", ANY),
    ("{photo} --quality 50", "--quality needs --format jpeg or webp: png loses nothing", "leave --quality out"),
    ("{photo} --name \udcff", "--name must be Unicode text, not '\\udcff'", "write it in UTF-8"),
    ("{photo} --name a/b", "--name must be a name without slashes and other special letters, not 'a/b'", ANY),
    ("{photo} --name " + "a" * 201, "--name must have at most 200 letters of its own, not 201", "shorten it"),
    ("{photo} --name ..", "--name must be a name without slashes and other special letters, not '..'", ANY),
    ("{photo} --name {style.__class__}", "--name must only use ...", "write {{ and }} for literal braces"),
    ("{photo} --name {style:>99999999999}", "--name must only use ...", ANY),
    ("{photo} --name {style!r}", "--name must only use ...", ANY),
    ("{photo} --name {", "--name must only use ...", ANY),
    ("{photo} --workers dask", "--workers must be ray, or ray:N with a number of processes, not 'dask'", ANY),
    ("{photo} --workers ray:0", "--workers must be ray, or ray:N with a number of processes, not 'ray:0'", ANY),
    ("{here}/strip.png", "'{here}/strip.png' is too elongated: ...", "crop the picture"),
    ("", "stylize needs at least one PHOTO", "stylescore stylize photo.jpg --style NAME"),
    ("{photo} --style fresko", "there is no style 'fresko'", "did you mean 'fresco'?"),
    (
        "{photo} --style {here}/none.safetensors",
        "there is no style '{here}/none.safetensors'",
        "known names: flat-illustration, ...",
    ),
    ("{photo} --style somebody/style", "the style 'somebody/style' cannot be fetched: ...", ANY),
    (
        "{photo} --style {here}/sdxl.safetensors",
        "the style '{here}/sdxl.safetensors' does not fit the model (made for SDXL): ...",
        "choose a model of the family SDXL with --model, or another style",
    ),
    ("{photo} --style {here}/half.safetensors", "'{here}/half.safetensors' is truncated: ...", DOWNLOAD),
    ("{photo} --style {here}/lying.safetensors", "'{here}/lying.safetensors' has a wrong header: ...", DOWNLOAD),
    ("{photo} --style {here}/nan.safetensors", "'{here}/nan.safetensors' has values in ...", ANY),
    ("{photo} --style {here}/empty.safetensors", "'{here}/empty.safetensors' is empty (0 bytes)", DOWNLOAD),
    (
        "{photo} --style {here}/style.pt",
        "'{here}/style.pt' is a pickle, not a LoRA: it may run code when loaded",
        PICKLE_ADVICE,
    ),
    (
        "{photo} --style {here}/style.ckpt",
        "'{here}/style.ckpt' is a pickle archive, not a LoRA: it may run code when loaded",
        PICKLE_ADVICE,
    ),
    ("{photo} --style {lora}=lots", "a style's weight must be a number, not 'lots'", "write --style NAME=0.7"),
    ("{photo} --style {lora}=9", "style weight must be between -4 and 4, not 9.0", "choose a value between -4 and 4"),
    (
        "{photo} --model {here}/model.ckpt",
        "'{here}/model.ckpt' is a pickle archive, not a safetensors file with a model: it may run code when loaded",
        PICKLE_ADVICE,
    ),
    ("{photo} --model {here}/model", "'{here}/model' is no diffusers model: it has no model_index.json", ANY),
    ("{photo} --model minni", "there is no model 'minni'", "did you mean 'mini'?..."),
    ("{photo} --model {here}/none", "there is no model '{here}/none'", ANY),
    ("{photo} --model {lora}", "'{lora}' is a LoRA, which cannot be used as a model file", ANY),
    ("{photo} --style-model {here}/model", "'{here}/model' is no diffusers model: it has no model_index.json", ANY),
    (
        "{photo} --preview-model {here}/none",
        "there is no preview model '{here}/none'",
        "give a folder with config.json and diffusion_pytorch_model.safetensors, or a hub id owner/name",
    ),
    (
        "{photo} --preview-model {here}/model.ckpt",
        "the preview model '{here}/model.ckpt' is a file, a folder is needed",
        "give a folder with config.json and diffusion_pytorch_model.safetensors",
    ),
    ("{photo} --gif --preview-model {here}/model", "'{here}/model' is no tiny autoencoder: it has no config.json", ANY),
    (
        "{photo} --gif --preview-model somebody/tiny",
        "the preview model 'somebody/tiny' cannot be fetched: ...",
        "check the name and the network; ...",
    ),
    ("{photo} --content 1.5", "content must be between 0 and 1, not 1.5", "choose a value between 0 and 1"),
    ("{photo} --content nan", "content must be a finite number, not nan", "choose a value between 0 and 1"),
    ("{photo} --content much", "Invalid value for '--content': ...", HELP),
    ("{photo} --iterations 0", "iterations must be at least 1, not 0", "choose a value at least 1"),
    ("{photo} --size 10", "size must be between 64 and 8192, not 10", "choose a value between 64 and 8192"),
    ("{photo} --seed -1", "seed must be between 0 and 2^63 - 1, not -1", "choose a value between 0 and 2^63 - 1"),
    ("{photo} --seed 9223372036854775808", "seed must be between 0 and 2^63 - 1, not 9223372036854775808", ANY),
    ("{photo} --style-strength 9", "style_strength must be between -4 and 4, not 9.0", ANY),
    ("{photo} --style-strength inf", "style_strength must be a finite number, not inf", ANY),
    ("{photo} --batch 0", "Invalid value for '--batch': ...", HELP),
    ("{photo} --preview-every -1", "Invalid value for '--preview-every': ...", HELP),
    (
        "{photo} --method smss",
        "method must be one of sms, vsd, sds, dds, pds, sdedit, styleid, freestyle, "
        "instantstyle, gatys, adain, ghiasi, not 'smss'",
        "did you mean 'sms'?",
    ),
    ("{photo} --preset balance", "no preset named 'balance'", "did you mean 'balanced'?"),
    ("{photo} --preset {here}/none.toml", "no preset named '{here}/none.toml'", ANY),
    ("{photo} --preset {here}/broken.toml", "cannot read '{here}/broken.toml' as TOML: ...", ANY),
    ("{photo} --preset {here}/typo.toml", "unknown setting 'iteratoins'", "did you mean 'iterations'?"),
    (
        "{photo} --preset {here}/methods.toml",
        "methods must hold one table for each method, not 3",
        "write [methods.vsd]",
    ),
    (
        "{photo} --preset {here}/method.toml",
        "methods must be one of sms, vsd, sds, dds, pds, sdedit, styleid, freestyle, "
        "instantstyle, gatys, adain, ghiasi, not 'smd'",
        ANY,
    ),
    ("{photo} --device gpu", "no device is called 'gpu'", "use auto, cpu, cuda, cuda:N or mps"),
    ("{photo} --device cuda", "this machine has no device 'cuda'", "use --device cpu"),
    ("{photo} --device cpu:3", "this machine has no device 'cpu:3'", "use --device cpu"),
    ("{photo} --batch 99999999999999999999", "Invalid value for '--batch': ...", HELP),
    ("{photo} --preview-every 99999999999999999999", "Invalid value for '--preview-every': ...", HELP),
    ("{photo} --dtype half", "dtype must be one of auto, float32, bfloat16, float16, not 'half'", ANY),
    ("{photo} --compile on --device cpu", "--compile needs a GPU, the device is 'cpu'", ANY),
    ("{photo} --dtype float16 --device cpu", "--dtype 'float16' needs a GPU, the device is 'cpu'", ANY),
    ("{photo} --set iteratoins=3", "unknown setting 'iteratoins'", "did you mean 'iterations'?"),
    ("{photo} --set iterations", "--set needs KEY=VALUE, not 'iterations'", ANY),
    ("{photo} --set optimiser.rate=1", "unknown setting 'optimiser.rate'", "known names: beta1, beta2, ..."),
    (
        "{photo} --set optimiser.lr=inf",
        "optimiser.lr must be a finite number, not inf",
        "choose a value greater than 0",
    ),
    ("{photo} --set optimiser.lr=fast", "optimiser.lr must be a number, not 'fast'", "write a number"),
    ("{photo} --set optimiser.lr=0,5", "optimiser.lr must be a number or a text in quotes, not 0,5", ANY),
    ("{photo} --set optimiser=3", "optimiser must be a table of settings, not 3", "write a table of settings"),
    ("{photo} --set fake.targets=3", "fake.targets must be a list, not 3", 'write ["a", "b"]'),
    (
        "{photo} --set fake.targets=['to_x']",
        "fake.targets must name linear layers or ... not 'to_x'",
        ANY,
    ),
    (
        "{photo} --set fake.targets=[]",
        "fake.targets must name linear layers or ... not 'nothing'",
        ANY,
    ),
    ("{photo} --set timesteps.t_min=0", "timesteps.t_min must be between 3 and 999, not 0", ANY),
    ("{photo} --set timesteps.t_min=499", "timesteps needs t_max of at least t_min + 2, not ...", ANY),
    ("{photo} --set target_prompt='{styel}'", "target_prompt must only use {style} and {caption}, not ...", ANY),
    ("{photo} --set guidance_scale=1e400", "guidance_scale must be a finite number, not inf", ANY),
    ("{photo} --set iterations=2.5", "iterations must be a whole number, not 2.5", "write a whole number"),
    ("{photo} --output {here}/a_file", "cannot write to '{here}/a_file/...", "choose another --output"),
    ("{photo} --output {here}/a_file/below", "cannot write to '{here}/a_file/below/...", "choose another --output"),
    ("{photo} --prewiew-every 3", "No such option: --prewiew-every...", HELP),
    ("{photo} --prompt \udcff", "prompt must be Unicode text, not '\\udcff'", "write it in UTF-8"),
    ("{here}/\udcff.png", "the path '{here}/\\udcff.png' is not valid Unicode", "rename the file or folder"),
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Return a folder with every file that somebody may give by mistake."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def no_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def fill(here: Path, text: str) -> list[str]:
    """Make the bad files that the words of a text name, and return the words."""
    for name, make in BAD_FILES.items():
        if any(word == f"{{here}}/{name}" or word.startswith(f"{{here}}/{name}/") for word in text.split()):
            make(here / name)
    return filled(here, text).split()


def filled(here: Path, text: str) -> str:
    for word, path in (("{here}", here), ("{photo}", PHOTO), ("{lora}", STYLE), ("{tiny}", TINY)):
        text = text.replace(word, str(path))
    return text


def fits(line: str, expected: str) -> bool:
    beginning, dots, _ = expected.partition("...")
    return line.startswith(beginning) if dots else line == expected


@pytest.mark.parametrize(("words", "error", "hint"), TABLE, ids=[words or "nothing" for words, _, _ in TABLE])
def test_bad_input(
    words: str, error: str, hint: str, stylize: Callable[..., Any], here: Path, own_styles: Path, out: Path
) -> None:
    shutil.copy(STYLE, own_styles / "fresco.safetensors")

    outcome = stylize(*fill(here, words))

    assert outcome.code == 2
    told, advice = outcome.complaint
    assert fits(told, filled(here, error)), told
    assert hint == ANY or fits(advice, hint), advice
    assert not out.exists()


class TestModelFolders:
    @pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
    def test_a_lacking_part_is_named(self, part: str, stylize: Callable[..., Any], tmp_path: Path, out: Path) -> None:
        model = shutil.copytree(TINY, tmp_path / "model")
        shutil.rmtree(model / part)

        outcome = stylize(PHOTO, "--model", model)

        assert outcome.code == 2
        assert outcome.complaint[0].startswith(f"{str(model)!r} lacks its {part}: there is no {part}/")
        assert not out.exists()

    @pytest.mark.parametrize("option", ["--model", "--style-model"])
    def test_a_model_of_too_few_timesteps_leaves_nothing(
        self, option: str, stylize: Callable[..., Any], tmp_path: Path, out: Path
    ) -> None:
        model = shutil.copytree(TINY, tmp_path / "model")
        file = model / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"num_train_timesteps": 3}), encoding="utf-8")

        outcome = stylize(PHOTO, option, model)

        assert outcome.code == 2
        assert outcome.complaint[0] == "timesteps.t_max must be below the model's number of timesteps, 3, not 499"
        assert outcome.complaint[1] == "use another model: it has too few timesteps"
        assert not out.exists()

    def test_pickled_weights_are_refused(self, stylize: Callable[..., Any], tmp_path: Path) -> None:
        model = shutil.copytree(TINY, tmp_path / "model")
        (model / "unet" / "diffusion_pytorch_model.safetensors").rename(model / "unet" / "diffusion_pytorch_model.bin")

        outcome = stylize(PHOTO, "--model", model)

        assert outcome.code == 2
        assert "is a pickle (diffusion_pytorch_model.bin), which may run code when loaded" in outcome.complaint[0]

    def test_models_that_do_not_go_together(self, stylize: Callable[..., Any], tmp_path: Path, out: Path) -> None:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        model = shutil.copytree(TINY, tmp_path / "model")
        unet = json.loads((model / "unet" / "config.json").read_text("utf-8")) | {"cross_attention_dim": 16}
        text = json.loads((model / "text_encoder" / "config.json").read_text("utf-8")) | {"hidden_size": 16}
        UNet2DConditionModel.from_config(unet).save_pretrained(model / "unet")
        CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(model / "text_encoder")

        outcome = stylize(PHOTO, "--style-model", model)

        assert outcome.code == 2
        assert outcome.complaint[0] == "--model and --style-model must have the same text width, not 32 and 16"
        assert not out.exists()


class TestOutput:
    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.EACCES, "Permission denied"),
            (errno.EROFS, "Read-only file system"),
            (errno.ENOSPC, "No space left on device"),
        ],
    )
    def test_a_folder_that_cannot_be_made(
        self, number: int, words: str, stylize: Callable[..., Any], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, *_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)

        outcome = stylize(PHOTO)

        assert outcome.code == 2
        told, advice = outcome.complaint
        assert told.startswith(f"cannot write to '{out}/")
        assert told.endswith(words)
        assert advice == "choose another --output"
        assert not out.exists()

    def test_a_full_disk_at_the_start_leaves_no_folder(
        self, stylize: Callable[..., Any], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, *_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_text", full)

        outcome = stylize(PHOTO)

        assert outcome.code == 2
        assert "No space left on device" in outcome.complaint[0]
        assert list(out.iterdir()) == []

    def test_a_disk_that_fills_up_at_the_end_costs_no_iteration(
        self,
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        out: Path,
        steps: Callable[[Path], Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        straight = stylize(PHOTO, "--output", out.parent / "straight").picture

        def full(picture: Image.Image, path: Path, **_: Any) -> None:
            Path(path).write_bytes(b"half a picture")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, "save", full)
            outcome = stylize(PHOTO)
        (folder,) = out.iterdir()

        assert outcome.code == 2
        assert "No space left on device" in outcome.complaint[0]
        assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "state.safetensors", "steps.jsonl"]
        assert Image.open(resume(folder).picture).tobytes() == Image.open(straight).tobytes()
        assert len(steps(folder)) == 4


class TestNaN:
    """A run that stops making sense stops, names step and t, and can be gone on with from its last good state."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_stops_and_keeps_the_last_good_state(
        self,
        value: float,
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        out: Path,
        steps: Callable[[Path], Any],
        stop_after: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        straight = stylize(PHOTO, "--output", out.parent / "straight").picture
        expected = steps(straight.parent)
        forward = torch.nn.Conv2d.forward

        def poison() -> None:
            broken.setattr(torch.nn.Conv2d, "forward", lambda layer, x: forward(layer, x) * value)

        with monkeypatch.context() as broken:
            stop_after(2, poison)
            outcome = stylize(PHOTO)
        (folder,) = out.iterdir()

        assert outcome.code == 1
        told, advice = outcome.complaint
        assert told == f"the gradient became non-finite at step 2 (t = {expected[2]['t']})"
        assert advice == "lower the learning rate or guidance scale, or use --dtype float32"
        assert steps(folder) == expected[:2]
        assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "state.safetensors", "steps.jsonl"]

        assert Image.open(resume(folder).picture).tobytes() == Image.open(straight).tobytes()
        assert steps(folder) == expected

    def test_in_the_fake_score_alone(
        self, stylize: Callable[..., Any], out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stylescore.method import fake_score as fake

        loss = fake.denoising_loss
        monkeypatch.setattr(fake, "denoising_loss", lambda *given: loss(*given) * torch.nan)

        outcome = stylize(PHOTO, "--set", "optimiser.warmup=0")
        (folder,) = out.iterdir()
        state = load_file(folder / "state.safetensors")

        assert outcome.code == 1
        assert outcome.complaint[0].startswith("the fake score became non-finite at step 0 (t = ")
        assert torch.equal(state["z"], state["z_source"])


class TestPrompts:
    def test_a_prompt_that_is_read_in_parts_is_said(self, stylize: Callable[..., Any]) -> None:
        outcome = stylize(PHOTO, "--iterations", "1", "--prompt", "a cat " * 60 + "zebra", quiet=False)

        notes = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
        assert outcome.code == 0
        assert len(notes) == 1
        assert "a prompt is longer than the text encoder reads at once: it is read in " in notes[0]
        assert "cut off" not in outcome.err

    def test_a_short_prompt_gives_no_warning(self, stylize: Callable[..., Any]) -> None:
        assert "warning" not in stylize(PHOTO, "--iterations", "1", "--prompt", "a cat", quiet=False).err
