"""Reads an adapter file into changes of weights, whichever program wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from stylescore.catalog.families import FLUX
from stylescore.catalog.metadata import added_tokens, is_added_token, stated_clip_skip, stated_trigger_words
from stylescore.errors import StyleError, is_out_of_memory, memory_limit, quote
from stylescore.lora.cloneofsimo import unknown_classes
from stylescore.lora.deltas import Change
from stylescore.lora.detection import detect_family
from stylescore.lora.keys import Format, Part, parse_key
from stylescore.lora.kinds import IncompleteError, Scaling, ShapeError, build_change, kind_of, summarize_kinds
from stylescore.lora.settings import AdapterSettings, read_settings
from stylescore.lora.unsupported import other_content, unsupported_adapter
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header

_USE_SUPPORTED = "use a LoRA, LoCon, LoHa, LoKr or DoRA in safetensors format"
_LARGEST_SCALE = 10_000
_DOWNLOAD_AGAIN = "the file is incomplete: download it again"


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """An adapter as its file holds it, not yet bound to a model.

    Attributes:
        path: the file.
        format: the program whose tensor names the file uses.
        kind: "LoRA", "LoCon", "LoHa", "LoKr", "DoRA on LoRA" and so on.
        family: the family of models it was made for, detected from names, shapes and metadata, or "unknown".
        ranks: the different ranks, ascending.
        parts: for each network, the change of each module by the file's own module name without prefix.
        added_tokens: embeddings of tokens that are added to the first text encoder, [width] each.
        metadata: the header's metadata.
        clip_skip: the layer of CLIP that the style was trained with, counted from the last, 1; `None` if not stated.
        trigger_words: words of which the file states that they trigger the style, or its added tokens; never a guess.
    """

    path: Path
    format: Format
    kind: str
    family: str
    ranks: tuple[int, ...]
    parts: dict[Part, dict[str, Change]]
    added_tokens: dict[str, Tensor]
    metadata: dict[str, str]
    trigger_words: tuple[str, ...]
    clip_skip: int | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes of all networks."""
        return tuple(change for changes in self.parts.values() for change in changes.values())


def read_lora(path: Path | str) -> LoraFile:
    """Read an adapter file; weights are converted to float32.

    Raises:
        StyleError: the file is missing, invalid, not finite, an adapter of an unsupported kind, or no adapter.
    """
    path = Path(path)
    header = read_header(path, error=StyleError)
    _refuse_unsupported(path, header)
    with memory_limit("reading the LoRA"):
        return _read(path, header)


def _read(path: Path, header: SafetensorsHeader) -> LoraFile:
    tensors = _load(path)
    modules = _group_by_module(path, tensors)
    settings = {part: read_settings(path, header.metadata, part) for part, _ in modules}
    parts: dict[Part, dict[str, Change]] = {}
    for (part, name), roles in modules.items():
        parts.setdefault(part, {})[name] = _read_change(path, name, roles, settings[part])
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    family = detect_family(shapes, header.metadata)
    ranks = {change.rank for changes in parts.values() for change in changes.values() if change.rank is not None}
    return LoraFile(
        path=path,
        format=file_format(header),
        kind=file_kind(header),
        family=family,
        ranks=tuple(sorted(ranks)),
        parts=_name_text_encoders(parts, family),
        added_tokens={token: _read_embedding(path, token, tensors[token]) for token in added_tokens(header)},
        metadata=header.metadata,
        trigger_words=stated_trigger_words(header),
        clip_skip=stated_clip_skip(header.metadata),
    )


def _name_text_encoders(parts: dict[Part, dict[str, Change]], family: str) -> dict[Part, dict[str, Change]]:
    """Give FLUX's T5 the name that it has in the model: kohya's files call it `lora_te3`, as it is in SD3."""
    if family != FLUX.key or "text_encoder_3" not in parts or "text_encoder_2" in parts:
        return parts
    return {"text_encoder_2" if part == "text_encoder_3" else part: changes for part, changes in parts.items()}


def file_format(header: SafetensorsHeader) -> Format:
    """Return the program whose names the file uses: that of the first tensor whose spelling is one program's alone."""
    keys = (parse_key(name) for name in header.tensors)
    return next((key.format for key in keys if key is not None and key.format is not None), "kohya")


def file_kind(header: SafetensorsHeader) -> str:
    """Return the kinds of adapter that the file's modules are; empty if it has none."""
    shapes: dict[tuple[Part, str], dict[str, tuple[int, ...]]] = {}
    for name, entry in header.tensors.items():
        if key := parse_key(name):
            shapes.setdefault((key.part, key.module), {})[key.role] = entry.shape
    return summarize_kinds(kind_of(roles) for roles in shapes.values())


def _refuse_unsupported(path: Path, header: SafetensorsHeader) -> None:
    """Raise `StyleError` if the header shows that this is no adapter, or one that cannot be applied."""
    kind = unsupported_adapter(header.tensors)
    if kind is not None:
        raise StyleError(f"{str(path)!r} is a {kind} file, which is not supported", hint=_USE_SUPPORTED)
    unknown = [name for name in header.tensors if parse_key(name) is None and not is_added_token(name)]
    if not any(parse_key(name) for name in header.tensors):
        content = other_content(header.tensors) or "something else"
        raise StyleError(f"{str(path)!r} is {content}, not a LoRA", hint=_USE_SUPPORTED)
    if unknown:
        rest = f"{len(unknown)} tensors that belong to no LoRA, such as {unknown[0]!r}"
        raise StyleError(f"{str(path)!r} holds {rest}", hint=_USE_SUPPORTED)
    _refuse_unknown_order(path, header)


def _refuse_unknown_order(path: Path, header: SafetensorsHeader) -> None:
    if file_format(header) == "cloneofsimo" and (unknown := unknown_classes(header.metadata)):
        reason = f"gives layers of {', '.join(unknown)} by number only, in an order that is not known"
        raise StyleError(f"{str(path)!r} {reason}", hint="use a file that names its layers")


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as reason:  # of whatever kind the library finds fitting
        if is_out_of_memory(reason):
            raise
        raise StyleError(f"{str(path)!r} cannot be read: {reason}", hint="download the file again") from reason


def _group_by_module(path: Path, tensors: Mapping[str, Tensor]) -> dict[tuple[Part, str], dict[str, Tensor]]:
    """Group tensors by network and module, then by role; all are float32 and finite."""
    modules: dict[tuple[Part, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key = parse_key(name)
        if key is None:
            continue  # the embedding of an added token: `_refuse_unsupported` lets no other tensor pass
        roles = modules.setdefault((key.part, key.module), {})
        if key.role in roles:
            raise StyleError(
                f"{str(path)!r} gives {key.module!r} twice, in two spellings", hint="save it again with one"
            )
        roles[key.role] = _to_finite(path, name, tensor)
    return modules


def _to_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or raise `StyleError` if it holds integers, NaN or infinity."""
    if tensor.is_complex() or (not tensor.is_floating_point() and tensor.numel() != 1):
        raise StyleError(f"{str(path)!r} stores {name!r} as integers ({tensor.dtype})", hint=_USE_SUPPORTED)
    values = tensor.to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise StyleError(
            f"{str(path)!r} has values in {name!r} that are not finite",
            hint="use another file: the training of this one diverged",
        )
    return values


def _read_embedding(path: Path, token: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 1 or tensor.numel() == 0:
        reason = f"an embedding of shape {tuple(tensor.shape)} for {quote(token)}, which must be one row of numbers"
        raise StyleError(f"{str(path)!r} has {reason}", hint="use another file")
    return _to_finite(path, token, tensor)


def _read_change(path: Path, name: str, tensors: Mapping[str, Tensor], settings: AdapterSettings) -> Change:
    if settings.has_magnitudes and tensors.keys().isdisjoint({"magnitude", "dora_scale"}):
        raise StyleError(f"{str(path)!r} is a DoRA that has no magnitudes for {name!r}", hint=_DOWNLOAD_AGAIN)
    try:
        return build_change(tensors, _read_scaling(path, name, tensors.get("alpha"), settings))
    except IncompleteError as missing:
        raise StyleError(
            f"{str(path)!r} has only a part of {name!r}: it lacks {missing}", hint=_DOWNLOAD_AGAIN
        ) from None
    except ShapeError as reason:
        shapes = ", ".join(
            f"{role} {tuple(tensor.shape)}" for role, tensor in sorted(tensors.items()) if role != "alpha"
        )
        raise StyleError(f"{str(path)!r} has tensors of {name!r} {reason}: {shapes}", hint="use another file") from None


def _read_scaling(path: Path, name: str, alpha: Tensor | None, settings: AdapterSettings) -> Scaling:
    if alpha is not None and (alpha.numel() != 1 or alpha.item() <= 0):
        value = json.dumps(alpha.tolist()) if alpha.numel() < 10 else f"{alpha.numel()} numbers"
        raise StyleError(
            f"the alpha of {name!r} in {str(path)!r} must be one positive number, not {value}", hint="use another file"
        )

    def of_rank(rank: int) -> float:
        scale = settings.scale(name, rank) if alpha is None else float(alpha.item()) / rank
        return _check_scale(path, name, scale)

    return Scaling(of_rank, 1.0 if alpha is not None else _check_scale(path, name, settings.scale_without_rank(name)))


def _check_scale(path: Path, name: str, scale: float) -> float:
    """Return a layer's factor if a training can have used it."""
    if scale > _LARGEST_SCALE:
        raise StyleError(
            f"the alpha of {name!r} in {str(path)!r} gives it the factor {scale:g}, more than {_LARGEST_SCALE:,}",
            hint="use another file: this one was damaged or changed",
        )
    return scale
