"""What `stylescore inspect` tells about a LoRA file, usable or not."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.diffusion.lora.families import guess_family
from stylescore.diffusion.lora.keys import Part, foreign_kind, parse_key
from stylescore.diffusion.lora.reading import LoraFile, file_format, read_lora
from stylescore.errors import StyleError
from stylescore.models.metadata import base_model, title, trigger_words
from stylescore.safetensors_header import SafetensorsHeader, read_header

NOTHING = SafetensorsHeader(tensors={}, metadata={})


@dataclass(frozen=True, kw_only=True)
class ModuleCount:
    """How many modules of one model a file changes."""

    linear: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """Linear layers and convolutions together."""
        return self.linear + self.conv


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """Everything a reader may want to know about a LoRA file before using it.

    Attributes:
        path: the file.
        sha256: hash of the whole file, hexadecimal.
        format: "kohya", "diffusers" or "peft", or an unusable kind's name; `None` when no adapter.
        family: models it was made for, or "unknown".
        ranks: the different ranks, ascending; empty when it cannot be used.
        alphas: the different alphas, ascending; empty when it cannot be used.
        unet: modules changed in the U-Net.
        text_encoder: modules changed in the text encoder.
        trigger_words: words that call the style.
        title: its maker's name for it.
        base_model: the base it says it was trained on.
        usable: whether `read_lora` takes it.
        reason: why not, in the words of the error; else `None`.
        hint: what to do then.
    """

    path: str
    sha256: str
    format: str | None
    family: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    unet: ModuleCount
    text_encoder: ModuleCount
    trigger_words: tuple[str, ...]
    title: str | None
    base_model: str | None
    usable: bool
    reason: str | None
    hint: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def describe(path: Path | str) -> LoraReport:
    """Inspect a LoRA file; a file that cannot be used is described as far as it can be read.

    Raises:
        StyleError: only when there is no such file, or it cannot be opened.
    """
    path = Path(path)
    lora, problem = _attempt(path)
    if problem is not None and not path.is_file():
        raise problem
    header = _header(path)
    return LoraReport(
        path=str(path),
        sha256=_sha256(path),
        format=lora.format if lora else _kind(header),
        family=guess_family({name: entry.shape for name, entry in header.tensors.items()}, header.metadata),
        ranks=lora.ranks if lora else (),
        alphas=_alphas(lora) if lora else (),
        unet=_count(header, "unet"),
        text_encoder=_count(header, "text_encoder"),
        trigger_words=trigger_words(header.metadata),
        title=title(header.metadata),
        base_model=base_model(header.metadata),
        usable=lora is not None,
        reason=str(problem) if problem else None,
        hint=problem.hint if problem else None,
    )


def _attempt(path: Path) -> tuple[LoraFile | None, StyleError | None]:
    try:
        return read_lora(path), None
    except StyleError as problem:
        return None, problem


def _header(path: Path) -> SafetensorsHeader:
    try:
        return read_header(path, error=StyleError)
    except StyleError:
        return NOTHING


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as reason:
        raise StyleError(f"{str(path)!r} cannot be read: {reason.strerror}") from reason


def _kind(header: SafetensorsHeader) -> str | None:
    """Return the kind of adapter, or `None` when the file is none."""
    if any(parse_key(name) for name in header.tensors):
        return foreign_kind(header.tensors) or file_format(header)
    return foreign_kind(header.tensors)


def _alphas(lora: LoraFile) -> tuple[float, ...]:
    changes = (*lora.unet.values(), *lora.text_encoder.values())
    return tuple(sorted({round(change.scale * change.rank, 6) for change in changes}))


def _count(header: SafetensorsHeader, part: Part) -> ModuleCount:
    counts = Counter(len(entry.shape) for name, entry in header.tensors.items() if _is_down(name, part))
    return ModuleCount(linear=counts[2], conv=counts.total() - counts[2])


def _is_down(name: str, part: Part) -> bool:
    key = parse_key(name)
    return key is not None and key.role == "down" and key.part == part
