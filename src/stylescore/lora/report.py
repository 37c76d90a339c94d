"""Describes an adapter file, usable or not, as `stylescore inspect` shows it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylescore.catalog.metadata import (
    added_tokens,
    base_model,
    one_step_generator,
    stated_clip_skip,
    suggested_trigger_words,
    title,
)
from stylescore.errors import StyleError
from stylescore.lora.binding import Modules, bind
from stylescore.lora.keys import BIAS, WHOLE, Key, Part, format_of, parse_keys
from stylescore.lora.reading import LoraFile, assumed_alpha, family_of, file_kind, read_lora
from stylescore.lora.settings import AdapterSettings, read_settings
from stylescore.lora.unsupported import unsupported_adapter
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header
from stylescore.storage.texts import is_file

PARTS: tuple[Part, ...] = ("unet", "text_encoder", "text_encoder_2", "text_encoder_3")
_SHAPED_LIKE_WEIGHTS = frozenset({"diff", WHOLE})
"""Roles of tensors that have the shape of the weight they change."""
_STACKED = frozenset({"oft_blocks", "boft_r"})
"""Roles of tensors whose first dimensions number blocks."""
_EMPTY_HEADER = SafetensorsHeader(tensors={}, metadata={})


@dataclass(frozen=True, kw_only=True)
class ModuleCount:
    """How many modules of one network a file changes."""

    linear: int = 0
    conv: int = 0
    norm: int = 0
    bias: int = 0

    @property
    def total(self) -> int:
        """Layers whose weights are changed: linear layers, convolutions and norms together."""
        return self.linear + self.conv + self.norm


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What a user may want to know about a LoRA file before using it.

    Attributes:
        path: the file.
        sha256: hash of the whole file, hexadecimal.
        format: the program whose tensor names it uses, "kohya", "diffusers", "peft", "xlabs" or "cloneofsimo"; `None`
            if the file is no adapter.
        kind: "LoRA", "LoKr", "DoRA on LoCon" and so on, or the name of an unsupported kind; `None` if the file is no
            adapter.
        family: the family of models it was made for, as the file states or its tensors show, or "unknown".
        ranks: the different ranks, ascending; empty if the file cannot be used.
        alphas: the different alphas, ascending; empty if the file states none or cannot be used.
        assumed: what is assumed because the file does not state it.
        unet: modules changed in the denoiser, U-Net or transformer.
        text_encoder: modules changed in the text encoder.
        text_encoder_2: modules changed in the second text encoder.
        text_encoder_3: modules changed in the third text encoder.
        trigger_words: words that may trigger the style: a suggestion, never added to a prompt by themselves.
        added_tokens: tokens whose embeddings it holds.
        clip_skip: the layer of CLIP that the style was trained with, counted from the last, 1, if the file says so.
        title: the name that its author gave it.
        base_model: the model that its metadata say it was trained on.
        one_step: the timestep of the one-step generator that it is, which `stylescore apply` runs; else `None`.
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
    assumed: str | None
    unet: ModuleCount
    text_encoder: ModuleCount
    text_encoder_2: ModuleCount
    text_encoder_3: ModuleCount
    trigger_words: tuple[str, ...]
    added_tokens: tuple[str, ...]
    clip_skip: int | None
    title: str | None
    base_model: str | None
    one_step: int | None
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
    counts = _count_modules(header)
    return LoraReport(
        path=str(path),
        sha256=_hash_file(path),
        format=format_of(header.tensors) if parse_keys(header.tensors) else None,
        kind=unsupported_adapter(header.tensors) or file_kind(header) or None,
        family=lora.family if lora else _find_family(path, header),
        ranks=lora.ranks if lora else (),
        alphas=_find_alphas(lora, header) if lora else (),
        assumed=lora.assumed if lora else None,
        unet=counts["unet"],
        text_encoder=counts["text_encoder"],
        text_encoder_2=counts["text_encoder_2"],
        text_encoder_3=counts["text_encoder_3"],
        trigger_words=suggested_trigger_words(header),
        added_tokens=added_tokens(header),
        clip_skip=stated_clip_skip(header.metadata),
        title=title(header.metadata),
        base_model=base_model(header.metadata),
        one_step=_timestep(one_step_generator(header.metadata)),
        usable=lora is not None,
        reason=str(problem) if problem else None,
        hint=problem.hint if problem else None,
    )


def _timestep(generator: Mapping[str, Any]) -> int | None:
    """Return the timestep that a generator's facts state."""
    options = generator.get("options")
    timestep = options.get("timestep") if isinstance(options, Mapping) else None
    return timestep if isinstance(timestep, int) else None


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


def _find_family(path: Path, header: SafetensorsHeader) -> str:
    """Return the family of a file that cannot be used; its settings count if they can be read."""
    try:
        return family_of(header, *(read_settings(path, header, part) for part in PARTS))
    except StyleError:
        return family_of(header)


def _find_alphas(lora: LoraFile, header: SafetensorsHeader) -> tuple[float, ...]:
    """Return the alphas that a file or its settings state; the limits of rotations are none."""
    settings = {part: read_settings(lora.path, header, part) for part in lora.parts}
    if assumed_alpha(header, settings.values()) is not None or not _states_alpha(header, settings.values()):
        return ()
    root = any(own.is_rank_stabilized for own in settings.values())
    found = {
        change.scale * (math.sqrt(change.rank) if root else change.rank)
        for change in lora.changes
        if change.rank is not None
    }
    return tuple(sorted({round(alpha, 6) for alpha in found}))


def _states_alpha(header: SafetensorsHeader, settings: Iterable[AdapterSettings]) -> bool:
    """Tell whether the scales of a file follow from an alpha, or are 1 because none is stated."""
    has_alpha = any(key.role == "alpha" for key in parse_keys(header.tensors).values())
    return has_alpha or any(own.states_alpha for own in settings)


def _count_modules(header: SafetensorsHeader) -> dict[Part, ModuleCount]:
    """Count the modules of each network; a layer whose tensors show no kernel counts as linear."""
    found: dict[Part, dict[str, list[int]]] = {part: {} for part in PARTS}
    for name, key in parse_keys(header.tensors).items():
        found[key.part].setdefault(key.module, []).append(_dimensions(key, header.tensors[name].shape))
    return {part: _count({name: max(sizes) for name, sizes in modules.items()}) for part, modules in found.items()}


def _dimensions(key: Key, shape: tuple[int, ...]) -> int:
    """Return of how many dimensions a changed weight is, as far as one tensor shows it."""
    if key.role in _SHAPED_LIKE_WEIGHTS:
        return len(shape)
    return 4 if len(shape) == 4 and key.role not in _STACKED else 2


def _count(dimensions: Mapping[str, int]) -> ModuleCount:
    weights = [count for name, count in dimensions.items() if not name.endswith(BIAS)]
    return ModuleCount(
        linear=weights.count(2),
        conv=sum(count > 2 for count in weights),
        norm=sum(count < 2 for count in weights),
        bias=len(dimensions) - len(weights),
    )
