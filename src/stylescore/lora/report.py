"""What `stylescore inspect` tells about an adapter file, usable or not."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.catalog.metadata import base_model, new_words, suggested_words, title
from stylescore.errors import StyleError
from stylescore.lora.binding import Modules, bind
from stylescore.lora.families import guess_family
from stylescore.lora.keys import Part, parse_key
from stylescore.lora.reading import LoraFile, file_format, file_kind, read_lora
from stylescore.lora.strangers import foreign_kind
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header

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
        format: "kohya", "diffusers", "peft" or "cloneofsimo", whose names it uses; `None` when no adapter.
        kind: "LoRA", "LoKr", "DoRA on LoCon" and so on, or an unusable kind's name; `None` when no adapter.
        family: models it was made for, or "unknown".
        ranks: the different ranks, ascending; empty when it cannot be used.
        alphas: the different alphas, ascending; empty when it cannot be used.
        unet: modules changed in the denoiser, U-Net or transformer.
        text_encoder: modules changed in the text encoder.
        text_encoder_2: modules changed in the second text encoder.
        trigger_words: words that may call the style: a suggestion, never applied.
        new_words: those whose embeddings it holds.
        title: its maker's name for it.
        base_model: the base it says it was trained on.
        usable: whether `read_lora` takes it.
        reason: why not, in the words of the error; else `None`.
        hint: what to do then.
    """

    path: str
    sha256: str
    format: str | None
    kind: str | None
    family: str
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    unet: ModuleCount
    text_encoder: ModuleCount
    text_encoder_2: ModuleCount
    trigger_words: tuple[str, ...]
    new_words: tuple[str, ...]
    title: str | None
    base_model: str | None
    usable: bool
    reason: str | None
    hint: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def describe(path: Path | str, modules: Modules | None = None) -> LoraReport:
    """Inspect an adapter file; a file that cannot be used is described as far as it can be read.

    Args:
        path: the file.
        modules: weight shapes of a denoiser's modules by dotted name, to tell whether the file fits it too.

    Raises:
        StyleError: only when there is no such file, or it cannot be opened.
    """
    path = Path(path)
    lora, problem = _attempt(path, modules)
    if problem is not None and not path.is_file():
        raise problem
    header = _header(path)
    return LoraReport(
        path=str(path),
        sha256=_sha256(path),
        format=file_format(header) if any(parse_key(name) for name in header.tensors) else None,
        kind=foreign_kind(header.tensors) or file_kind(header) or None,
        family=guess_family({name: entry.shape for name, entry in header.tensors.items()}, header.metadata),
        ranks=lora.ranks if lora else (),
        alphas=_alphas(lora) if lora else (),
        unet=_count(header, "unet"),
        text_encoder=_count(header, "text_encoder"),
        text_encoder_2=_count(header, "text_encoder_2"),
        trigger_words=suggested_words(header),
        new_words=new_words(header),
        title=title(header.metadata),
        base_model=base_model(header.metadata),
        usable=lora is not None,
        reason=str(problem) if problem else None,
        hint=problem.hint if problem else None,
    )


def _attempt(path: Path, modules: Modules | None) -> tuple[LoraFile | None, StyleError | None]:
    try:
        lora = read_lora(path)
        if modules is not None:
            bind(lora, modules)
        return lora, None
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


def _alphas(lora: LoraFile) -> tuple[float, ...]:
    return tuple(sorted({round(change.scale * change.rank, 6) for change in lora.changes if change.rank is not None}))


def _count(header: SafetensorsHeader, part: Part) -> ModuleCount:
    """Count the modules of one network; a layer whose tensors show no taps counts as linear."""
    dimensions: dict[str, int] = {}
    for name, entry in header.tensors.items():
        key = parse_key(name)
        if key is not None and key.part == part:
            dimensions[key.module] = max(dimensions.get(key.module, 2), len(entry.shape))
    conv = sum(count > 2 for count in dimensions.values())
    return ModuleCount(linear=len(dimensions) - conv, conv=conv)
