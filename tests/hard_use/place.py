"""The folder in which hard use happens: good pictures, a style and a model, and every kind of wrong file."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

TESTS = Path(__file__).parents[1]
DATA = TESTS / "data" / "parity"
TINY, LORA, PHOTO = DATA / "tiny_base", DATA / "style_lora_kohya.safetensors", DATA / "input_128x128.png"


def load_module(name: str) -> ModuleType:
    """Return a module of the tests by its path below them."""
    label = f"hard_use_{Path(name).stem}"
    if label not in sys.modules:
        spec = importlib.util.spec_from_file_location(label, TESTS / name)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[label] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[label])
    return sys.modules[label]


def _header(text: bytes, data: int = 64) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _tiny_with(path: Path, file: str, **changes: Any) -> None:
    """Copy the tiny model with other settings in one of its files."""
    shutil.copytree(TINY, path)
    target = path / file
    target.write_text(json.dumps(json.loads(target.read_text("utf-8")) | changes), encoding="utf-8")


def _write(text: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(text.encode() if isinstance(text, str) else text)


PICTURES: dict[str, Callable[[Path], object]] = {
    "page.jpg": _write("<!DOCTYPE html><html><body>Not found</body></html>"),
    "pointer.jpg": _write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    "zeros.jpg": _write(bytes(5000)),
    "noise.png": _write(bytes(range(256)) * 20),
    "archive.jpg": _write(b"PK\x03\x04" + bytes(100)),
    "movie.mp4": _write(b"\0\0\0\x18ftypmp42" + bytes(200)),
    "paper.pdf": _write(b"%PDF-1.7\n" + bytes(100)),
    "drawing.svg": _write("<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "raw.cr2": _write(b"II*\0\x10\0\0\0CR\x02\0" + bytes(100)),
    "header.gif": _write(b"GIF89a"),
    "header.webp": _write(b"RIFF\x24\0\0\0WEBPVP8 "),
    "table.csv": _write("file,caption\n"),
    "code.py": _write("print(1)\n"),
    "empty folder": lambda path: path.mkdir(),
}
STYLES: dict[str, Callable[[Path], object]] = {
    "page.safetensors": _write("<!DOCTYPE html><html><body>Sign in</body></html>"),
    "pointer.safetensors": _write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
    "zeros.safetensors": _write(bytes(5000)),
    "brackets.safetensors": _write(_header(b'{"a":' * 5000)),
    "long.safetensors": _write(struct.pack("<Q", 2**62) + b"{"),
    "none.safetensors": _write(_header(b"{}", 0)),
    "dims.safetensors": _write(
        _header(json.dumps({"lora_unet_a.lora_down.weight": _entry}).encode())
        if (_entry := {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 64]})
        else b""
    ),
    "gguf.safetensors": _write(b"GGUF\x03\0\0\0" + bytes(200)),
    "half.safetensors": lambda path: save_file({"lora_unet_a.lora_down.weight": torch.ones(2, 4)}, path),
    "picture.safetensors": lambda path: shutil.copy(PHOTO, path),
    "control.safetensors": lambda path: save_file({"control_model.input_hint_block.0.weight": torch.ones(2)}, path),
    "embedding.safetensors": lambda path: save_file({"emb_params": torch.ones(2, 32)}, path),
    "style.bin": _write(b"\x80\x02}q\0."),
    "two": lambda path: [path.mkdir(), *(shutil.copy(LORA, path / f"{n}.safetensors") for n in "ab")],
    "empty folder": lambda path: path.mkdir(exist_ok=True),
}
MODELS: dict[str, Callable[[Path], object]] = {
    "no unet": lambda path: [shutil.copytree(TINY, path), shutil.rmtree(path / "unet")],
    "no text": lambda path: [shutil.copytree(TINY, path), shutil.rmtree(path / "text_encoder")],
    "no scheduler": lambda path: [shutil.copytree(TINY, path), shutil.rmtree(path / "scheduler")],
    "index of lists": lambda path: _tiny_with(path, "model_index.json", _class_name=["a"]),
    "other pipeline": lambda path: _tiny_with(path, "model_index.json", _class_name="StableVideoDiffusionPipeline"),
    "zero steps": lambda path: _tiny_with(path, "scheduler/scheduler_config.json", num_train_timesteps=0),
    "three steps": lambda path: _tiny_with(path, "scheduler/scheduler_config.json", num_train_timesteps=3),
    "huge size": lambda path: _tiny_with(path, "unet/config.json", sample_size=100_000),
    "zero layers": lambda path: _tiny_with(path, "unet/config.json", layers_per_block=0),
    "huge layers": lambda path: _tiny_with(path, "unet/config.json", layers_per_block=10**9),
    "text layers": lambda path: _tiny_with(path, "text_encoder/config.json", num_hidden_layers="many"),
    "strange prediction": lambda path: _tiny_with(path, "scheduler/scheduler_config.json", prediction_type="x0"),
    "cut weights": lambda path: [
        shutil.copytree(TINY, path),
        (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(bytes(100)),
    ],
    "bad json": lambda path: [shutil.copytree(TINY, path), (path / "unet" / "config.json").write_text("{")],
    "empty model": lambda path: path.mkdir(),
}
PRESETS: dict[str, Callable[[Path], object]] = {
    "nested.toml": _write("a = " + "[" * 3000),
    "digits.toml": _write("iterations = " + "9" * 5000),
    "binary.toml": _write(b"\xff\xfe\0\0"),
    "loop.toml": _write('extends = "loop.toml"'),
    "types.toml": _write("fake = 3"),
    "negative.toml": _write("guidance_scale = -2"),
}
RUNS: dict[str, Callable[[Path], object]] = {
    "run without record": lambda path: path.mkdir(),
    "run of nothing": lambda path: [path.mkdir(), (path / "config.toml").write_text("")],
    "run of another": lambda path: [path.mkdir(), (path / "config.toml").write_text('command = "cook"\nversion = "1"')],
    "run nested": lambda path: [path.mkdir(), (path / "config.toml").write_text("a = " + "[" * 3000)],
    "run binary": lambda path: [path.mkdir(), (path / "config.toml").write_bytes(b"\xff\xfe\0")],
    "run of digits": lambda path: [path.mkdir(), (path / "config.toml").write_text("command = " + "9" * 5000)],
}
TABLES: dict[str, Callable[[Path], object]] = {
    "empty.csv": _write(""),
    "columns.csv": _write("name,words\n0.png,a\n"),
    "stranger.csv": _write("file,caption\nnothing.png,a\n"),
    "twice.csv": _write("file,caption\n0.png,a\n0.png,b\n"),
    "binary.csv": _write(b"\xff\xfe\0"),
    "broken.jsonl": _write("{\n"),
    "numbers.jsonl": _write('{"file": 3, "caption": 4}\n'),
    "broken.json": _write("[1,"),
}


def _save_generator(path: Path) -> None:
    """Write a small generator of random weights, unless an older version is tried, which has none."""
    try:
        from stylescore.generators.files import GeneratorFacts, save_generator
        from stylescore.generators.kinds import make_generator, resolve_options
    except ModuleNotFoundError:
        return
    options = resolve_options("mobile", {"width": 8, "blocks": 2})
    facts = GeneratorFacts(network="mobile", options=options, style="made", noise_channels=3, licence="CC0-1.0")
    save_generator(path, make_generator("mobile", options, 3), facts)


def make_place(root: Path) -> Path:
    """Make the folder: good files at its top, wrong ones in `bad/`, of each kind."""
    bad = root / "bad"
    bad.mkdir(parents=True)
    shutil.copy(PHOTO, root / "photo.png")
    (root / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 80), (60 * number, 90, 120)).save(root / "pictures" / f"{number}.png")
    (root / "few").mkdir()
    shutil.copy(PHOTO, root / "few" / "one.png")
    (root / "styles").mkdir()
    for name, count in (("many", 5), ("results", 3)):
        (root / name).mkdir()
        for number in range(count):
            Image.new("RGB", (96, 80), (40 * number, 200, 9)).save(root / name / f"{number}.png")
    os.mkfifo(root / "pipe")
    _save_generator(root / "generator.safetensors")
    known = load_module("cli/test_errors.py").BAD_FILES
    for table in (known, PICTURES, STYLES, MODELS, PRESETS, RUNS, TABLES):
        for name, make in table.items():
            if not (bad / name).exists():
                make(bad / name)
    return root
