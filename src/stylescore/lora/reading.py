"""Reads an adapter file into changes of weights, whichever program wrote it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from stylescore.catalog.families import FLUX, family_label
from stylescore.catalog.metadata import (
    added_tokens,
    belongs_to_added_token,
    split_added_token,
    stated_clip_skip,
    stated_trigger_words,
)
from stylescore.errors import StyleError, is_out_of_memory, memory_limit, quote
from stylescore.lora.cloneofsimo import unknown_classes
from stylescore.lora.deltas import Change
from stylescore.lora.detection import detect_family, detect_other_family
from stylescore.lora.embeddings import Embedding, read_vectors
from stylescore.lora.keys import BIAS, Format, Key, Part, format_of, parse_keys
from stylescore.lora.kinds import (
    IncompleteError,
    Scaling,
    SettingsError,
    ShapeError,
    build_changes,
    kind_of,
    summarize_kinds,
)
from stylescore.lora.settings import AdapterSettings, read_settings
from stylescore.lora.unsupported import TEXT_EMBEDDING, other_content, unsupported_adapter, with_article
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header

_USE_SUPPORTED = "use a LoRA, LoCon, LoHa, LoKr, DoRA, IA3, OFT, BOFT or GLoRA in safetensors format"
_LARGEST_SCALE = 10_000
_DOWNLOAD_AGAIN = "the file is incomplete: download it again"
_WHOLE_NUMBERS = frozenset({"bias_indices", "bias_size", "on_input"})
"""Roles of tensors that may hold integers."""
_SCALED = ("down", "up", "hada", "lokr")
"""Beginnings of the roles of factors, whose product is scaled."""
_WITHOUT_LIMIT = frozenset({"oft_blocks", "oft_diag"})
"""Roles beside which an alpha limits a rotation, where 0 stands for no limit."""


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
        added_tokens: tokens that are added to the text encoders, with their embeddings.
        metadata: the header's metadata.
        clip_skip: the layer of CLIP that the style was trained with, counted from the last, 1; `None` if not stated.
        trigger_words: words of which the file states that they trigger the style, or its added tokens; never a guess.
        assumed: what is assumed because the file does not state it, in one line; else `None`.
    """

    path: Path
    format: Format
    kind: str
    family: str
    ranks: tuple[int, ...]
    parts: dict[Part, dict[str, Change]]
    added_tokens: dict[str, Embedding]
    metadata: dict[str, str]
    trigger_words: tuple[str, ...]
    clip_skip: int | None = None
    assumed: str | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes of all networks."""
        return tuple(change for changes in self.parts.values() for change in changes.values())

    def for_text_encoders(self, names: Collection[str]) -> LoraFile:
        """Return this file for a model with these text encoders.

        kohya's files number FLUX's T5 as that of SD3, the third. Where neither tensors nor metadata show the family,
        only the model does: a third text encoder is the second of a model that has two.
        """
        is_renamed = "text_encoder_3" in self.parts and "text_encoder_2" not in self.parts
        if not is_renamed or "text_encoder_3" in names or "text_encoder_2" not in names:
            return self
        return replace(self, parts=_name_text_encoders(self.parts, FLUX.key))


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
    settings = {part: read_settings(path, header, part) for part, _ in modules}
    parts: dict[Part, dict[str, Change]] = {}
    for (part, name), roles in modules.items():
        changes = _read_changes(path, name, roles, settings[part])
        parts.setdefault(part, {}).update({name + end: change for end, change in changes.items()})
    family = family_of(header, *settings.values())
    ranks = {change.rank for changes in parts.values() for change in changes.values() if change.rank is not None}
    return LoraFile(
        path=path,
        format=format_of(header.tensors),
        kind=file_kind(header),
        family=family,
        ranks=tuple(sorted(ranks)),
        parts=_name_text_encoders(parts, family),
        added_tokens=_read_added_tokens(path, tensors, header),
        metadata=header.metadata,
        trigger_words=stated_trigger_words(header),
        clip_skip=stated_clip_skip(header.metadata),
        assumed=assumed_alpha(header, settings.values()) if ranks else None,
    )


def family_of(header: SafetensorsHeader, *settings: AdapterSettings) -> str:
    """Return the family of models that a file was made for, see `detect_family`."""
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    return detect_family(shapes, header.metadata, next((own.base for own in settings if own.base), None))


def assumed_alpha(header: SafetensorsHeader, settings: Iterable[AdapterSettings]) -> str | None:
    """Return what is assumed about the alpha of a file, or `None` where it is stated, or is always the rank.

    Old diffusers files and those of cloneofsimo's trainer know no alpha, which is the same as alpha = rank.
    """
    has_alpha = any(key.role == "alpha" for key in parse_keys(header.tensors).values())
    if has_alpha or any(own.states_alpha for own in settings):
        return None
    return "alpha = rank, as the file states no alpha" if format_of(header.tensors) in ("kohya", "peft") else None


def _name_text_encoders(parts: dict[Part, dict[str, Change]], family: str) -> dict[Part, dict[str, Change]]:
    """Give FLUX's T5 the name that it has in the model: kohya's files call it `lora_te3`, as it is in SD3."""
    if family != FLUX.key or "text_encoder_3" not in parts or "text_encoder_2" in parts:
        return parts
    return {"text_encoder_2" if part == "text_encoder_3" else part: changes for part, changes in parts.items()}


def file_kind(header: SafetensorsHeader) -> str:
    """Return the kinds of adapter that the file's modules are; empty if it has none.

    Changes of biases alone are no kind, unless there is nothing else.
    """
    shapes: dict[tuple[Part, str], dict[str, tuple[int, ...]]] = {}
    for name, key in parse_keys(header.tensors).items():
        shapes.setdefault((key.part, key.module), {})[key.role] = header.tensors[name].shape
    weights = [kind_of(roles) for (_, module), roles in shapes.items() if not module.endswith(BIAS)]
    return summarize_kinds(weights or map(kind_of, shapes.values()))


def _refuse_unsupported(path: Path, header: SafetensorsHeader) -> None:
    """Raise `StyleError` if the header shows that this is no adapter, or one that cannot be applied."""
    kind = unsupported_adapter(header.tensors)
    if kind is not None:
        raise StyleError(f"{str(path)!r} is {with_article(kind)} file, which is not supported", hint=_USE_SUPPORTED)
    keys = parse_keys(header.tensors)
    if not keys:
        _refuse_content(path, header)
    _refuse_other_family(path, header, keys)
    unknown = [name for name in header.tensors if name not in keys and not belongs_to_added_token(name)]
    if unknown:
        rest = f"{len(unknown)} tensors that belong to no LoRA, such as {unknown[0]!r}"
        raise StyleError(f"{str(path)!r} holds {rest}", hint=_USE_SUPPORTED)
    _refuse_unknown_order(path, header)


def _refuse_content(path: Path, header: SafetensorsHeader) -> None:
    """Raise `StyleError` for a file without an adapter."""
    first = next(iter(header.tensors), None)
    unknown = "a file without tensors" if first is None else f"a file of other tensors, such as {quote(first)}"
    content = other_content(header.tensors) or unknown
    hint = _USE_SUPPORTED
    if content == TEXT_EMBEDDING:
        hint = f"give it with --embedding NAME={path}, where NAME is the word for your prompts"
    raise StyleError(f"{str(path)!r} is {content}, not a LoRA", hint=hint)


def _refuse_other_family(path: Path, header: SafetensorsHeader, keys: Mapping[str, Key]) -> None:
    """Raise `StyleError` for an adapter of a model that cannot be used here."""
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    bases = (read_settings(path, header, part).base for part in {key.part for key in keys.values()})
    label = detect_other_family(shapes, header.metadata, next(filter(None, bases), None))
    if label is not None:
        known = ", ".join(family_label(key) for key in ("sd1", "sd2", "sdxl", "sd3", "flux"))
        raise StyleError(
            f"{str(path)!r} is {with_article(file_kind(header))} for {label}, which is not supported",
            hint=f"use one for {known}",
        )


def _refuse_unknown_order(path: Path, header: SafetensorsHeader) -> None:
    if format_of(header.tensors) == "cloneofsimo" and (unknown := unknown_classes(header.metadata)):
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
    for name, key in parse_keys(tensors).items():
        roles = modules.setdefault((key.part, key.module), {})
        if key.role in roles:
            raise StyleError(
                f"{str(path)!r} gives {key.module!r} twice, in two spellings", hint="save it again with one"
            )
        roles[key.role] = _to_finite(path, name, tensors[name], may_be_whole=key.role in _WHOLE_NUMBERS)
    return modules


def _to_finite(path: Path, name: str, tensor: Tensor, *, may_be_whole: bool = False) -> Tensor:
    """Return a tensor in float32, or raise `StyleError` if it holds integers where it must not, NaN or infinity."""
    is_whole = not tensor.is_floating_point() and tensor.numel() != 1
    if tensor.is_complex() or (is_whole and not may_be_whole):
        raise StyleError(f"{str(path)!r} stores {name!r} as integers ({tensor.dtype})", hint=_USE_SUPPORTED)
    values = tensor.to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise StyleError(
            f"{str(path)!r} has values in {name!r} that are not finite",
            hint="use another file: the training of this one diverged",
        )
    return values


def _read_added_tokens(path: Path, tensors: Mapping[str, Tensor], header: SafetensorsHeader) -> dict[str, Embedding]:
    """Return the embeddings that a file holds beside its adapter, by token."""
    found: dict[str, dict[str, Tensor]] = {token: {} for token in added_tokens(header)}
    for name, tensor in tensors.items():
        if split := split_added_token(name):
            found[split[0]][split[1]] = _to_finite(path, name, tensor)
    return {token: read_vectors(path, token, vectors) for token, vectors in found.items()}


def _read_changes(path: Path, name: str, tensors: Mapping[str, Tensor], settings: AdapterSettings) -> dict[str, Change]:
    """Build the changes of one module's weight and bias, by the end of their name."""
    has_factors = "down" in tensors or "up" in tensors
    if settings.has_magnitudes and has_factors and tensors.keys().isdisjoint({"magnitude", "dora_scale"}):
        raise StyleError(f"{str(path)!r} is a DoRA that has no magnitudes for {name!r}", hint=_DOWNLOAD_AGAIN)
    try:
        return build_changes(tensors, _read_scaling(path, name, tensors, settings))
    except IncompleteError as missing:
        raise StyleError(
            f"{str(path)!r} has only a part of {name!r}: it lacks {missing}", hint=_DOWNLOAD_AGAIN
        ) from None
    except SettingsError as kind:
        raise StyleError(
            f"{str(path)!r} is {kind} made with PEFT, which needs its adapter_config.json",
            hint="put adapter_config.json of the same adapter beside it",
        ) from None
    except ShapeError as reason:
        shapes = ", ".join(
            f"{role} {tuple(tensor.shape)}" for role, tensor in sorted(tensors.items()) if role != "alpha"
        )
        raise StyleError(f"{str(path)!r} has tensors of {name!r} {reason}: {shapes}", hint="use another file") from None
    except ValueError as reason:
        raise StyleError(
            f"{str(path)!r} has adapter settings that cannot be read: {reason}", hint="use another file"
        ) from None


def _read_scaling(path: Path, name: str, tensors: Mapping[str, Tensor], settings: AdapterSettings) -> Scaling:
    alpha = tensors.get("alpha")
    may_be_zero = not tensors.keys().isdisjoint(_WITHOUT_LIMIT)
    if alpha is not None and (alpha.numel() != 1 or alpha.item() < 0 or (alpha.item() == 0 and not may_be_zero)):
        value = json.dumps(alpha.tolist()) if alpha.numel() < 10 else f"{alpha.numel()} numbers"
        raise StyleError(
            f"the alpha of {name!r} in {str(path)!r} must be one positive number, not {value}", hint="use another file"
        )

    def of_rank(rank: int) -> float:
        scale = settings.scale(name, rank) if alpha is None else float(alpha.item()) / rank
        return _check_scale(path, name, factor * scale)

    factor = _read_factor(path, name, tensors)
    without_rank = factor if alpha is not None else _check_scale(path, name, factor * settings.scale_without_rank(name))
    return Scaling(of_rank, without_rank, name, settings)


def _read_factor(path: Path, name: str, tensors: Mapping[str, Tensor]) -> float:
    """Return the trained factor that older LyCORIS writes beside the tensors; newer versions multiply it in."""
    factor = tensors.get("scalar")
    if factor is None:
        return 1.0
    if factor.numel() != 1 or not any(role.startswith(_SCALED) for role in tensors):
        reason = "multiplies nothing" if factor.numel() == 1 else f"is {factor.numel()} numbers"
        raise StyleError(f"the scalar of {name!r} in {str(path)!r} {reason}", hint="use another file")
    return float(factor.item())


def _check_scale(path: Path, name: str, scale: float) -> float:
    """Return a layer's factor if a training can have used it."""
    if abs(scale) > _LARGEST_SCALE:
        raise StyleError(
            f"the alpha of {name!r} in {str(path)!r} gives it the factor {scale:g}, more than {_LARGEST_SCALE:,}",
            hint="use another file: this one was damaged or changed",
        )
    return scale
