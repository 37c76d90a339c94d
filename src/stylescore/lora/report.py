"""Describes an adapter file, usable or not, as `stylescore inspect` shows it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.catalog.metadata import added_tokens, base_model, suggested_trigger_words, title
from stylescore.errors import StyleError
from stylescore.lora.binding import Modules, bind
from stylescore.lora.detection import detect_family
from stylescore.lora.keys import Part, parse_key
from stylescore.lora.reading import LoraFile, file_format, file_kind, read_lora
from stylescore.lora.settings import read_settings
from stylescore.lora.unsupported import unsupported_adapter
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header
from stylescore.storage.texts import is_file

_EMPTY_HEADER = SafetensorsHeader(tensors={}, metadata={})


@dataclass(frozen=True, kw_only=True)
class ModuleCount:
    """How many modules of one network a file changes."""

    linear: int = 0
    conv: int = 0

    @property
    def total(self) -> int:
        """Linear layers and convolutions together."""
        return self.linear + self.conv


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What a user may want to know about a LoRA file before using it.

    Attributes:
        path: the file.
        sha256: hash of the whole file, hexadecimal.
        format: the program whose tensor names it uses, "kohya", "diffusers", "peft" or "cloneofsimo"; `None` if the
            file is no adapter.
        kind: "LoRA", "LoKr", "DoRA on LoCon" and so on, or the name of an unsupported kind; `None` if the file is no
            adapter.
        family: the family of models it was made for, or "unknown".
        ranks: the different ranks, ascending; empty if the file cannot be used.
        alphas: the different alphas, ascending; empty if the file states none or cannot be used.
        unet: modules changed in the denoiser, U-Net or transformer.
        text_encoder: modules changed in the text encoder.
        text_encoder_2: modules changed in the second text encoder.
        trigger_words: words that may trigger the style: a suggestion, never added to a prompt by themselves.
        added_tokens: tokens whose embeddings it holds.
        title: the name that its author gave it.
        base_model: the model that its metadata say it was trained on.
        usable: whether `read_lora` accepts it.
        reason: why not, the message of the error; else `None`.
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
    added_tokens: tuple[str, ...]
    title: str | None
    base_model: str | None
    usable: bool
    reason: str | None
    hint: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def describe(path: Path | str, modules: Modules | None = None) -> LoraReport:
    """Describe an adapter file; one that cannot be used is described as far as it can be read.

    Args:
        path: the file.
        modules: weight shapes of a denoiser's modules by dotted name, to check whether the file fits it too.

    Raises:
        StyleError: only if there is no such file, or it cannot be opened.
    """
    path = Path(path)
    lora, problem = _try_read(path, modules)
    if problem is not None and not is_file(path):
        raise problem
    header = _read_header(path)
    return LoraReport(
        path=str(path),
        sha256=_hash_file(path),
        format=file_format(header) if any(parse_key(name) for name in header.tensors) else None,
        kind=unsupported_adapter(header.tensors) or file_kind(header) or None,
        family=detect_family({name: entry.shape for name, entry in header.tensors.items()}, header.metadata),
        ranks=lora.ranks if lora else (),
        alphas=_find_alphas(lora, header) if lora else (),
        unet=_count_modules(header, "unet"),
        text_encoder=_count_modules(header, "text_encoder"),
        text_encoder_2=_count_modules(header, "text_encoder_2"),
        trigger_words=suggested_trigger_words(header),
        added_tokens=added_tokens(header),
        title=title(header.metadata),
        base_model=base_model(header.metadata),
        usable=lora is not None,
        reason=str(problem) if problem else None,
        hint=problem.hint if problem else None,
    )


def _try_read(path: Path, modules: Modules | None) -> tuple[LoraFile | None, StyleError | None]:
    try:
        lora = read_lora(path)
        if modules is not None:
            bind(lora, modules)
        return lora, None
    except StyleError as problem:
        return None, problem


def _read_header(path: Path) -> SafetensorsHeader:
    try:
        return read_header(path, error=StyleError)
    except StyleError:
        return _EMPTY_HEADER


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as reason:
        raise StyleError(f"{str(path)!r} cannot be read: {reason.strerror}") from reason


def _find_alphas(lora: LoraFile, header: SafetensorsHeader) -> tuple[float, ...]:
    """Return the alphas that a file or its settings state."""
    if not _states_alpha(lora, header):
        return ()
    return tuple(sorted({round(change.scale * change.rank, 6) for change in lora.changes if change.rank is not None}))


def _states_alpha(lora: LoraFile, header: SafetensorsHeader) -> bool:
    """Tell whether the scales of a file follow from an alpha, or are 1 because none is stated."""
    if any(key is not None and key.role == "alpha" for key in map(parse_key, header.tensors)):
        return True
    stated = [read_settings(lora.path, header.metadata, part) for part in lora.parts]
    return any(settings.alpha is not None or settings.alpha_patterns for settings in stated)


def _count_modules(header: SafetensorsHeader, part: Part) -> ModuleCount:
    """Count the modules of one network; a layer whose tensors show no kernel counts as linear."""
    dimensions: dict[str, int] = {}
    for name, entry in header.tensors.items():
        key = parse_key(name)
        if key is not None and key.part == part:
            dimensions[key.module] = max(dimensions.get(key.module, 2), len(entry.shape))
    conv = sum(count > 2 for count in dimensions.values())
    return ModuleCount(linear=len(dimensions) - conv, conv=conv)
