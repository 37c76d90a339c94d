"""Tells what a file is from its first bytes, with the standard library alone.

Downloads and renamed files often are something else than their name says. A reader that cannot use a file asks here
what it is instead, so that its message can name it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD_LENGTH = 4096
"""How many bytes of a file are looked at."""

_GET_SAFETENSORS = (
    "get the same file as .safetensors, or convert it in an environment where running its code does no harm"
)
_LOGIN = "download it in a browser where you are logged in, or with the site's own program"
_DOWNLOAD = "download the file again"
_NAME_ANOTHER = "give the path of another file"


@dataclass(frozen=True)
class FileKind:
    """What a file is.

    Attributes:
        what: what it is, as the end of the sentence "the file is ...".
        hint: what to do about it.
        note: why it came to be there or cannot be used, to stand behind `what`; may be empty.
        is_damage: whether any file may have become this by a failed copy.
    """

    what: str
    hint: str = _NAME_ANOTHER
    note: str = ""
    is_damage: bool = False

    def refuse(self, wanted: str) -> str:
        """Return the end of a message that begins with the file's name.

        Args:
            wanted: what the file should have been, such as "a LoRA".
        """
        other = "" if self.is_damage else f", not {wanted}"
        return f"is {self.what}{other}{self.note and f': {self.note}'}"


_EMPTY = FileKind("empty (0 bytes)", _DOWNLOAD, is_damage=True)
_ZEROS = FileKind("a file of zeros", _DOWNLOAD, "its download was interrupted", is_damage=True)
_WEB_PAGE = FileKind("a web page", _LOGIN, "the download was refused or needs a login")
_PICKLE_NOTE = "it may run code when loaded"
_PICKLE_ARCHIVE = FileKind("a pickle archive", _GET_SAFETENSORS, _PICKLE_NOTE)
_ZIP = FileKind("a ZIP archive", "unpack it and give the file that it holds")
_ARCHIVE = FileKind("a packed archive", "unpack it and give the file that it holds")
_PICKLE = FileKind("a pickle", _GET_SAFETENSORS, _PICKLE_NOTE)
_SAFETENSORS = FileKind("a safetensors file")
_PICTURE = FileKind("a picture")
_SVG = FileKind("an SVG drawing", "open it in a browser or drawing program and export it as PNG")
RAW = FileKind("a camera's raw file", "develop it in a photo program and save it as JPEG or TIFF")
_EXPORT = "open it in an image program and save it as PNG"
_ONNX = FileKind("an ONNX model", "get the same model as .safetensors")
_JSON = FileKind("a JSON file", "give the file that it describes, or download that file again")
_TOML = FileKind("a TOML file", "give it with --preset if it is one")
_TEXT = FileKind("a text file")

_MAGICS: tuple[tuple[bytes, FileKind], ...] = (
    (
        b"version https://git-lfs",
        FileKind("a Git LFS pointer", "run `git lfs pull` where it lies", "the file itself was not downloaded"),
    ),
    (b"GGUF", FileKind("a GGUF file", "get the same model as .safetensors")),
    (b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file", "get the same model as .safetensors")),
    (b"\x93NUMPY", FileKind("a NumPy array", "get the same model as .safetensors")),
    (b"%PDF-", FileKind("a PDF document", "export its page as PNG")),
    (b"%!PS", FileKind("a PostScript document", "export its page as PNG")),
    *((magic, RAW) for magic in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")),
    *((magic, FileKind("a JPEG XL picture", _EXPORT)) for magic in (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    (b"v/1\x01", FileKind("an OpenEXR picture", _EXPORT)),
    *((magic, _PICTURE) for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"8BPS")),
    *(
        (magic, _ARCHIVE)
        for magic in (b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\xfd7zXZ\0", b"(\xb5/\xfd", b"BZh")
    ),
)
_CONTAINERS = {b"WEBP": _PICTURE, b"AVI ": FileKind("a video"), b"WAVE": FileKind("a sound file")}
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_LONGEST_HEADER = 2**32
_OPENING_OF_TOML = re.compile(r"\s*(?:#[^\n]*\n\s*)*(?:\[\[?[\w.\"' -]+\]\]?\s*$|[\w.\"'-]+\s*=)", re.M)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def file_kind(path: Path) -> FileKind | None:
    """Return what a file is, or `None` if its first bytes do not show it.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe could block, a device has no end
        return None
    with path.open("rb") as file:
        return kind_of_bytes(file.read(HEAD_LENGTH))


def kind_of_bytes(head: bytes) -> FileKind | None:
    """Return what a file with these first bytes is, or `None` if they do not show it."""
    if not head:
        return _EMPTY
    for look in _LOOKS:
        found = look(head)
        if found is not None:
            return found
    return None


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file's first bytes are those of a safetensors file: a length, then a JSON object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _LONGEST_HEADER


def _look_at_layout(head: bytes) -> FileKind | None:
    """Recognize formats by more than a beginning; safetensors first, as its length may begin like any other format."""
    if is_safetensors(head):
        return _SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _PICKLE_ARCHIVE if b".pkl" in head else _ZIP
    if head[257:262] == b"ustar":
        return _ARCHIVE
    return _look_at_zeros(head)


def _look_at_zeros(head: bytes) -> FileKind | None:
    return _ZEROS if len(head) >= 64 and not head.strip(b"\0") else None


def _look_at_magic(head: bytes) -> FileKind | None:
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), None)


def _look_at_container(head: bytes) -> FileKind | None:
    if head.startswith(b"RIFF"):
        return _CONTAINERS.get(head[8:12])
    if head[:4] == b"II*\0" and head[8:10] == b"CR":
        return RAW
    if head[4:12] == b"ftypcrx ":
        return RAW
    if head[4:8] == b"ftyp":
        return _PICTURE if head[8:12] in _PICTURE_BRANDS else FileKind("a video", "save one of its frames as a picture")
    return None


def _look_at_models(head: bytes) -> FileKind | None:
    """Recognize pickles and ONNX: a protobuf whose first field is a small version, followed by a text or a graph."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    if (
        head[:1] == b"\x08"
        and 0 < int.from_bytes(head[1:2], "little") < 32
        and head[2:3] in (b"\x12", b"\x3a", b"\x42")
    ):
        return _ONNX
    return None


def _look_at_text(head: bytes) -> FileKind | None:
    text = _to_text(head)
    if text is None:
        return None
    start = text.lstrip().lower()
    if start.startswith("<"):
        return _SVG if "<svg" in start else _WEB_PAGE
    if _OPENING_OF_TOML.match(text):
        return _TOML
    return _JSON if start.startswith(("{", "[")) else _TEXT


def _to_text(head: bytes) -> str | None:
    """Return these bytes as text, or `None` if they are none; a letter that is cut off at the end counts as text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", errors="replace")
    else:
        text = head.decode("utf-8-sig", errors="replace").rstrip("�")
    has_strange_letters = "�" in text or _CONTROL.search(text)
    return None if has_strange_letters or not text.strip() else text


_LOOKS: tuple[Callable[[bytes], FileKind | None], ...] = (
    _look_at_layout,
    _look_at_container,
    _look_at_magic,
    _look_at_models,
    _look_at_text,
)
