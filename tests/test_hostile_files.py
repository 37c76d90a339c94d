"""Whatever is in a file, its reader returns or raises one of our errors, in one line and at once."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from stylescore.catalog.registry import list_styles
from stylescore.config import presets
from stylescore.config.method import MethodConfig
from stylescore.config.toml import load_toml, parse_toml
from stylescore.diffusion.checkpoints.folders import load_folder, read_json
from stylescore.errors import StyleError, StylescoreError
from stylescore.generators import GeneratorFacts, load_generator, save_generator
from stylescore.generators.kinds import make_generator
from stylescore.images import read_photo
from stylescore.lora import describe, read_lora
from stylescore.runs.folder import RunFolder
from stylescore.runs.record import read_record
from stylescore.storage.safetensors_header import read_header
from stylescore.training.captions import CaptionSource, find_captions
from stylescore.training.generator.pairs import PairFolder
from stylescore.training.generator.photos import open_photos

STEM = "lora_unet_mid_block_attentions_0_proj_in"
SLOWEST = 5.0
"""Seconds that a reader may take for one file of these tests, on a busy machine; most take milliseconds."""


@dataclass(frozen=True)
class Settings:
    """What a record of these tests holds."""

    method: MethodConfig = field(default_factory=MethodConfig)
    inputs: tuple[str, ...] = ()


def read_preset(path: Path) -> object:
    return presets.load(str(path))


def read_run_record(path: Path) -> object:
    shutil.copy(path, path.with_name("config.toml"))
    return read_record(RunFolder(path.parent), "stylize", Settings)


def read_caption(path: Path) -> object:
    picture = path.with_name("a.png")
    picture.touch()
    shutil.copy(path, path.with_name("a.txt"))
    return find_captions([picture], CaptionSource())


def read_table(path: Path) -> object:
    path.with_name("a.png").touch()
    for suffix in (".csv", ".tsv", ".jsonl"):
        table = path.with_suffix(suffix)
        shutil.copy(path, table)
        with suppress(StylescoreError):
            find_captions([path.with_name("a.png")], CaptionSource(table=table))
    return find_captions([path.with_name("a.png")], CaptionSource(table=path))


def read_style_settings(path: Path) -> object:
    tensors = {"unet.m.lora_A.weight": torch.ones(1, 4), "unet.m.lora_B.weight": torch.ones(4, 1)}
    save_file(tensors, path.with_name("adapter_model.safetensors"))
    shutil.copy(path, path.with_name("adapter_config.json"))
    return read_lora(path.with_name("adapter_model.safetensors"))


def read_model_folder(path: Path) -> object:
    shutil.copy(path, path.with_name("model_index.json"))
    return load_folder(path.parent, torch.float32)


def describe_style(path: Path) -> object:
    return describe(path).to_dict()


def list_folder(path: Path) -> object:
    shutil.copy(path, path.with_name("one.safetensors"))
    return list_styles([path.parent])


def header(path: Path) -> object:
    return read_header(path, error=StyleError)


def settings_json(path: Path) -> object:
    return read_json(path, "network")


def read_pairs(path: Path) -> object:
    shutil.copy(path, path.with_name("pairs.jsonl"))
    return PairFolder(path.parent).read()


def read_shard(path: Path) -> object:
    shutil.copy(path, path.with_name("photos.tar"))
    return open_photos(path.with_name("photos.tar"), CaptionSource())


TOML_READERS = (load_toml, read_preset, read_run_record)
JSON_READERS = (settings_json, read_style_settings, read_model_folder)
TEXT_READERS = (read_caption, read_table, read_pairs)
LORA_READERS = (header, read_lora, describe_style, list_folder, load_generator)
READERS = (*TOML_READERS, *JSON_READERS, *TEXT_READERS, *LORA_READERS, read_photo, read_shard)


def attempt(read: Callable[[Path], object], path: Path) -> None:
    """Read a file; nothing but our errors may come out, in one short line and soon."""
    begun = time.monotonic()
    message = ""
    try:
        read(path)
    except StylescoreError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message.encode("utf-8")) < 3000
    assert time.monotonic() - begun < SLOWEST


def lora_bytes(tmp: Path, metadata: dict[str, str] | None = None) -> bytes:
    tensors = {
        f"{STEM}.lora_down.weight": torch.ones(2, 4),
        f"{STEM}.lora_up.weight": torch.ones(4, 2),
        f"{STEM}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, tmp / "valid.safetensors", metadata or {"ss_tag_frequency": '{"3_a": {"b": 3}}'})
    return (tmp / "valid.safetensors").read_bytes()


def photo_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (9, 99, 200)).save(buffer, kind)
    return buffer.getvalue()


TOML = b"""command = "stylize"
version = "1"
extends = "swift"
iterations = 7
inputs = ["a", "b"]
[hashes]
photo = "x"
[method.fake]
rank = 3
[methods.vsd]
iterations = 9
"""
JSON = json.dumps(
    {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "r": 4,
        "lora_alpha": 8,
        "alpha_pattern": {"m": 2.0},
        "file": "a.png",
        "caption": "a disc",
    }
).encode()
TABLE = b'file,caption\na.png,"a disc, red"\n'

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "nul": b"\0",
    "nuls": bytes(1000),
    "not-utf8": b'{"a": "\xff\xfe"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf" + JSON,
    "deep-lists": b"[" * 20_000,
    "deep-lists-closed": b"[" * 300 + b"]" * 300,
    "deep-objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep-toml": b"a = " + b"[" * 3000,
    "deep-name": b"a." * 20_000 + b"a = 1",
    "deep-version": b'command = "stylize"\nversion' + b".a" * 90 + b" = 1",
    "digits": b"a = " + b"9" * 6000,
    "digits-json": b'{"r": ' + b"9" * 6000 + b"}",
    "exponent": b'{"r": 1e400, "lora_alpha": 1e400}',
    "nan": b'{"lora_alpha": NaN}',
    "infinity": b'{"r": -Infinity}',
    "negative": b'{"r": -4, "lora_alpha": -8}',
    "zero-rank": b'{"r": 0, "lora_alpha": 8}',
    "slow-pattern": b'{"alpha_pattern": {"(a+)+$": 2, "(.*)*x": 3}, "lora_alpha": 8}',
    "wide-pattern": b'{"alpha_pattern": {"' + b"(" * 5000 + b'": 2}}',
    "wrong-types": b'{"alpha_pattern": [1], "rank_pattern": 3, "r": "x", "lora_alpha": {}}',
    "twice": b'{"a": 1, "a": 2}',
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "index-of-numbers": b'{"_class_name": "StableDiffusionPipeline", "unet": 3, "vae": {"a": []}}',
    "index-of-lists": b'{"_class_name": ["StableDiffusionPipeline"], "unet": [[]]}',
    "no-end-of-quote": b'file,caption\na.png,"' + b"x" * 300_000,
    "long-line": b"file,caption\n" + b"x" * 300_000,
    "long-name": b'extends = "' + b"x" * 6000 + b'"',
    "extends-nul": b'extends = "\\u0000"',
    "extends-device": b'extends = "/dev/zero"',
    "carriage-returns": b"\r" * 100_000,
    "html": b"<html>",
    "types": b"extends = 3\nmethods = 4\nmethod = []\nfake = 3",
    "dates": b"iterations = 1979-05-27T07:32:00Z\nhashes = 1979-05-27",
    "about": b"about = [[[[1]]]]\niterations = 1e400",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder for one file and what its reader puts beside it."""
    return tmp_path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_or_read(place: Path, read: Callable[[Path], object], name: str) -> None:
    path = place / "given"
    path.write_bytes(HOSTILE[name])
    attempt(read, path)


def forged(entries: Any, data: int = 64) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]} | changes


DOWN = f"{STEM}.lora_down.weight"
HEADERS: dict[str, bytes] = {
    "no-tensor": forged({}, 0),
    "huge-length": (2**63).to_bytes(8, "little") + b"{",
    "length-of-a-gigabyte": (2**30).to_bytes(8, "little") + b"{",
    "deep": forged(b'{"a":' * 5000),
    "many-dimensions": forged({DOWN: entry(shape=[1] * 70)}),
    "huge-sides": forged({DOWN: entry(shape=[2**62, 2**62, 0], data_offsets=[0, 0])}, 0),
    "zero-sides": forged({DOWN: entry(shape=[0], data_offsets=[0, 0])}, 0),
    "digits": forged(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 6000 + b'], "data_offsets": [0, 64]}}'),
    "bits": forged({DOWN: entry(dtype="F" + "9" * 6000)}),
    "negative": forged({DOWN: entry(data_offsets=[-64, 0])}),
    "floats": forged({DOWN: entry(shape=[2.0, 8.0])}),
    "booleans": forged({DOWN: entry(shape=[True, 16])}),
    "surrogates": forged(b'{"\\ud800": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}'),
    "odd-metadata": forged({"__metadata__": {"ss_tag_frequency": [1]}, DOWN: entry()}),
    "deep-metadata": forged({"__metadata__": {"ss_tag_frequency": "[" * 5000}, DOWN: entry()}),
    "digits-in-metadata": forged({"__metadata__": {"ss_tag_frequency": "9" * 6000}, DOWN: entry()}),
    "deep-settings": forged({"__metadata__": {"lora_adapter_metadata": "{" * 5000}, DOWN: entry()}),
    "numbered": forged({"unet:" + "9" * 900 + ":up": entry()}),
    "complex": forged({f"{STEM}.alpha": {"dtype": "C64", "shape": [8], "data_offsets": [0, 64]}}),
    "long-name": forged({"a" * 500_000: entry()}),
    "dots": forged({"." * 900 + DOWN: entry()}),
}


@pytest.mark.parametrize("read", LORA_READERS)
@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_or_read(place: Path, read: Callable[[Path], object], name: str) -> None:
    path = place / "given.safetensors"
    path.write_bytes(HEADERS[name])
    attempt(read, path)


@st.composite
def mutations(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return a valid file with a piece replaced, removed, doubled or cut off."""
    start = draw(st.integers(0, len(valid)))
    end = draw(st.integers(start, min(len(valid), start + 40)))
    piece = draw(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"", b"\0", b"[[[[", b'{"a":', b"9" * 400, b"-1", b"1e400", b"NaN", b"\xff", b"\n", b"''"]
            ),
        )
    )
    return draw(st.sampled_from([valid[:start] + piece + valid[end:], valid[:start], valid[:end] + valid[start:]]))


QUICKLY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("read", READERS)
@QUICKLY
@given(content=st.binary(max_size=300))
def test_random_bytes(place: Path, read: Callable[[Path], object], content: bytes) -> None:
    (place / "given").write_bytes(content)
    attempt(read, place / "given")


@pytest.mark.parametrize("read", TOML_READERS)
@QUICKLY
@given(content=mutations(TOML))
def test_damaged_toml(place: Path, read: Callable[[Path], object], content: bytes) -> None:
    (place / "given").write_bytes(content)
    attempt(read, place / "given")


@pytest.mark.parametrize("read", JSON_READERS)
@QUICKLY
@given(content=mutations(JSON))
def test_damaged_json(place: Path, read: Callable[[Path], object], content: bytes) -> None:
    (place / "given").write_bytes(content)
    attempt(read, place / "given")


@pytest.mark.parametrize("read", TEXT_READERS)
@QUICKLY
@given(content=mutations(TABLE))
def test_damaged_captions(place: Path, read: Callable[[Path], object], content: bytes) -> None:
    (place / "given").write_bytes(content)
    attempt(read, place / "given")


@pytest.mark.parametrize("read", LORA_READERS)
@QUICKLY
@given(data=st.data())
def test_damaged_loras(place: Path, read: Callable[[Path], object], data: st.DataObject) -> None:
    content = data.draw(mutations(lora_bytes(place)))
    (place / "given").write_bytes(content)
    attempt(read, place / "given")


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
NAMES = ["r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_dora", "_class_name", "unet", "vae", "text_encoder"]


@pytest.mark.parametrize("read", JSON_READERS)
@QUICKLY
@given(table=st.dictionaries(st.sampled_from(NAMES), trees))
def test_settings_of_any_type(place: Path, read: Callable[[Path], object], table: dict[str, Any]) -> None:
    (place / "given").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"} | table), encoding="utf-8")
    attempt(read, place / "given")


@QUICKLY
@given(name=st.sampled_from([DOWN, f"{STEM}.alpha", "a", "__metadata__"]), value=trees)
def test_headers_of_any_type(place: Path, name: str, value: Any) -> None:
    (place / "given").write_bytes(forged({name: value}))
    for read in LORA_READERS:
        attempt(read, place / "given")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@QUICKLY
@given(data=st.data())
def test_damaged_pictures(place: Path, kind: str, data: st.DataObject) -> None:
    (place / "given").write_bytes(data.draw(mutations(photo_bytes(kind))))
    attempt(read_photo, place / "given")


@QUICKLY
@given(text=st.text(max_size=200))
def test_a_toml_text_is_parsed_or_raises_a_value_error(text: str) -> None:
    with suppress(ValueError):
        parse_toml(text)


@pytest.mark.parametrize("read", [load_toml, settings_json, header, read_lora, describe_style, read_photo])
@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/nowhere/at/all", "a\0b", "x" * 5000, "/"])
def test_what_is_no_regular_file_is_refused(read: Callable[[Path], object], name: str) -> None:
    with pytest.raises(StylescoreError):
        read(Path(name))


@pytest.fixture(scope="module")
def generator_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the file of a very small generator."""
    path = tmp_path_factory.mktemp("generators") / "valid.safetensors"
    options = {"width": 1, "blocks": 1}
    facts = GeneratorFacts(network="mobile", options=options, style="a", noise_channels=1)
    save_generator(path, make_generator("mobile", options, 1), facts)
    return path.read_bytes()


@QUICKLY
@given(data=st.data())
def test_damaged_generators(place: Path, generator_bytes: bytes, data: st.DataObject) -> None:
    """Most of the file is its header, so most of the damage is there."""
    (place / "given").write_bytes(data.draw(mutations(generator_bytes)))
    attempt(load_generator, place / "given")


@QUICKLY
@given(data=st.data())
def test_damaged_shards(place: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("a.jpg", photo_bytes("JPEG")), ("a.txt", b"a disc"), ("b/c.png", photo_bytes("PNG"))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (place / "given").write_bytes(data.draw(mutations(buffer.getvalue())))
    attempt(read_shard, place / "given")
