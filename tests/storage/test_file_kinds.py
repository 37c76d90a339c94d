"""What a file is, from its first bytes, and how each reader names it."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylescore.diffusion.checkpoints.single_file import load_single_file
from stylescore.errors import InputError, ModelError, PictureError, StyleError
from stylescore.images import read_photo
from stylescore.lora import read_lora
from stylescore_apply.storage.file_kinds import file_kind, kind_of_bytes


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return buffer.getvalue()


def torch_saved(*, new: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def drawn(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    return buffer.getvalue()


LOGIN = "a web page", "the download was refused or needs a login"
PICKLE = "it may run code when loaded"
MADE: dict[str, tuple[bytes, str, str]] = {
    "html": (b"\n<!DOCTYPE html><html>", *LOGIN),
    "html-after-bom": (b"\xef\xbb\xbf<html>", *LOGIN),
    "xml-of-a-store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', *LOGIN),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer", "not downloaded"),
    "zip": (zipped("style.safetensors"), "a ZIP archive", ""),
    "torch-zip": (torch_saved(new=True), "a pickle archive", PICKLE),
    "torch-old": (torch_saved(new=False), "a pickle", PICKLE),
    "pickle": (pickle.dumps({"a": 1}, protocol=5), "a pickle", PICKLE),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.0.0" + b"\xff" * 80, "an ONNX model", ""),
    "gguf": (b"GGUF\x03\0\0\0" + b"\0" * 64, "a GGUF file", ""),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "an HDF5 file", ""),
    "json": (json.dumps({"error": "Unauthorized"}).encode(), "a JSON file", ""),
    "toml": (b'# mine\nextends = "balanced"\n', "a TOML file", ""),
    "toml-table": (b"[optimiser]\nlr = 1\n", "a TOML file", ""),
    "text": ("Öl auf Leinwand".encode(), "a text file", ""),
    "gzip": (b"\x1f\x8b\x08\0" + b"\xff" * 64, "a packed archive", ""),
    "zeros": (bytes(5000), "a file of zeros", "its download was interrupted"),
    "raw-canon": (b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 200, "a camera's raw file", ""),
    "raw-canon-new": (b"\0\0\0\x18ftypcrx " + b"\0" * 200, "a camera's raw file", ""),
    "raw-fuji": (b"FUJIFILMCCD-RAW 0201" + b"\xff" * 200, "a camera's raw file", ""),
    "jpeg-xl": (b"\xff\x0a" + b"\xfa" * 64, "a JPEG XL picture", ""),
    "jpeg-xl-box": (b"\0\0\0\x0cJXL \r\n\x87\n" + b"\xfa" * 64, "a JPEG XL picture", ""),
    "exr": (b"v/1\x01\2\0\0\0" + b"\xff" * 64, "an OpenEXR picture", ""),
    "video": (b"\0\0\0\x18ftypmp42" + b"\0" * 64, "a video", ""),
    "pdf": (b"%PDF-1.7\n", "a PDF document", ""),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", ""),
    "empty": (b"", "empty (0 bytes)", ""),
}
PICTURES = ("JPEG", "PNG", "GIF", "WEBP", "TIFF")


@pytest.mark.parametrize("name", MADE)
def test_a_kind_is_named(name: str) -> None:
    content, what, note = MADE[name]
    found = kind_of_bytes(content)
    assert found is not None
    assert found.what == what
    assert note in found.note
    assert found.hint


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_recognized(kind: str) -> None:
    found = kind_of_bytes(drawn(kind))
    assert found is not None
    assert found.what == "a picture"


def test_a_safetensors_file_is_recognized_whatever_its_length_looks_like(tmp_path: Path) -> None:
    for count in range(1, 60):
        save_file({f"layer.{n}": torch.ones(1) for n in range(count)}, tmp_path / "a.safetensors")
        found = file_kind(tmp_path / "a.safetensors")
        assert found is not None
        assert found.what == "a safetensors file"


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x01\x02\x03\x04" * 16, b"\x00"])
def test_what_is_unknown_has_no_name(content: bytes) -> None:
    assert kind_of_bytes(content) is None


READERS = (
    (read_lora, StyleError, "a LoRA"),
    (lambda path: load_single_file(path, torch.float32), ModelError, "a safetensors file with a model"),
    (read_photo, PictureError, "a picture"),
)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(("read", "error", "wanted"), READERS)
def test_every_reader_says_what_the_file_is(
    tmp_path: Path, name: str, read: object, error: type[InputError], wanted: str
) -> None:
    content, what, note = MADE[name]
    path = tmp_path / "some-file"
    path.write_bytes(content)
    assert callable(read)
    with pytest.raises(error) as caught:
        read(path)
    message = str(caught.value)
    assert what in message
    assert note in message
    assert name in ("empty", "zeros") or f"not {wanted}" in message
    assert caught.value.hint
    assert "\n" not in message


def test_a_lora_and_a_photo_that_were_exchanged_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "style.jpg")
    (tmp_path / "photo.safetensors").write_bytes(drawn("JPEG"))
    with pytest.raises(PictureError, match="is a safetensors file, not a picture"):
        read_photo(tmp_path / "style.jpg")
    with pytest.raises(StyleError, match="is a picture, not a LoRA"):
        read_lora(tmp_path / "photo.safetensors")


@pytest.mark.parametrize(("read", "error", "wanted"), READERS)
def test_every_reader_refuses_a_folder(tmp_path: Path, read: object, error: type[InputError], wanted: str) -> None:
    del wanted
    assert callable(read)
    with pytest.raises(error, match="is a folder"):
        read(tmp_path)
