"""Reads the alphas, ranks and kinds that PEFT and diffusers write beside the weights instead of among them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.catalog.hub import ADAPTER_SETTINGS
from stylescore.errors import StyleError, quote
from stylescore.lora.keys import Part, format_of, parse_keys
from stylescore.lora.unsupported import with_article
from stylescore.storage.safetensors_header import SafetensorsHeader
from stylescore.storage.texts import describe_error, is_file, parse_json, read_text

_METADATA_KEY = "lora_adapter_metadata"
_USUAL_NAME = "adapter_model"
_LARGEST_CONFIG = 2**20
_LARGEST_NUMBER = 1_000_000
_LONGEST_PATTERN = 300
_MOST_REPETITIONS = 3
_REPEATED_GROUP = re.compile(r"\)\s*[*+?{]")
_REPETITION = re.compile(r"[*+{]")
_KNOWN_TYPES = frozenset({"LORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT"})
_TYPE_NAMES: Mapping[str, str] = {"ADALORA": "AdaLoRA", "VERA": "VeRA", "GLORA": "PEFT GLoRA", "FOURIERFT": "FourierFT"}
_BASE_CHANGED: Mapping[str, str] = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "loftq": "LoftQ",
    "lora_ga": "LoRA-GA",
}
"""Initializations that take a part of the base model's weights away, by how their names begin."""
_UNUSED_OPTIONS: Mapping[str, str] = {
    "layer_replication": "LoRA with repeated layers",
    "alora_invocation_tokens": "activated LoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow",
    "monteclora_config": "MonteCLoRA",
}
"""Options of PEFT that change what a LoRA computes, and that are not computed here."""


@dataclass(frozen=True)
class AdapterSettings:
    """The PEFT configuration of one network.

    Attributes:
        alpha: alpha of all modules that no pattern matches, or `None` if the configuration gives none.
        alpha_patterns: alpha by pattern of the end of a module's name.
        is_rank_stabilized: whether the scale is alpha / sqrt(rank) instead of alpha / rank (rsLoRA).
        rank: rank of all modules that no pattern matches, or `None` if the configuration gives none.
        rank_patterns: rank by pattern of the end of a module's name.
        has_magnitudes: whether magnitudes were trained too (DoRA).
        base: the base model that they name, or `None`.
        options: all settings, as they stand in the file.
    """

    alpha: float | None = None
    alpha_patterns: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    rank: int | None = None
    rank_patterns: Mapping[str, float] = field(default_factory=dict)
    has_magnitudes: bool = False
    base: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there are no settings at all."""
        return not self.options

    @property
    def states_alpha(self) -> bool:
        """Whether they give an alpha."""
        return self.alpha is not None or bool(self.alpha_patterns)

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a switch among the options."""
        value = self.options.get(name)
        return default if value is None else bool(value)

    def number(self, name: str, *, default: float) -> float:
        """Return a number among the options.

        Raises:
            ValueError: it is none that can be used.
        """
        value = self.options.get(name)
        return default if value is None else _to_positive(name, value)

    def is_listed(self, name: str, module: str) -> bool | None:
        """Tell whether an option lists a module, by ends of names or a pattern; `None` without the option."""
        listed = self.options.get(name)
        if isinstance(listed, str):
            return re.fullmatch(_compile(listed), module) is not None
        if not isinstance(listed, list | tuple):
            return None
        return any(module.endswith(str(end)) for end in listed)

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of one module; 1 if no alpha is given."""
        alpha = _match_module(self.alpha_patterns, module, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def scale_without_rank(self, module: str) -> float:
        """Return the factor of a module whose tensors have no rank: alpha / rank if both are given, else 1."""
        rank = _match_module(self.rank_patterns, module, self.rank)
        return self.scale(module, int(rank)) if rank else 1.0


def read_settings(path: Path, header: SafetensorsHeader, part: Part) -> AdapterSettings:
    """Read the settings of one network from the file's own metadata, or from `adapter_config.json` beside it.

    Raises:
        StyleError: the settings cannot be read, or state a kind of adapter that cannot be applied.
    """
    found = _read_embedded(path, header.metadata) or _read_config_file(path, header)
    own = {_strip_prefix(key, part): value for key, value in found.items()}
    try:
        settings = _parse(own)
    except (TypeError, ValueError, OverflowError, RecursionError, re.error) as reason:
        raise StyleError(
            f"{str(path)!r} has adapter settings that cannot be read: {reason}", hint="use another file"
        ) from None
    if kind := unsupported_settings(own):
        raise StyleError(
            f"{str(path)!r} is {with_article(kind)} file, which is not supported",
            hint="use another LoRA in safetensors format",
        )
    return settings


def unsupported_settings(own: Mapping[str, Any]) -> str | None:
    """Return the kind of adapter that settings state if it is one that cannot be applied, else `None`."""
    stated = str(own.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if stated not in _KNOWN_TYPES:
        return _TYPE_NAMES.get(stated, f"PEFT {stated}")
    start = str(own.get("init_lora_weights")).lower()
    changed = (name for prefix, name in _BASE_CHANGED.items() if start.startswith(prefix))
    options = (name for option, name in _UNUSED_OPTIONS.items() if own.get(option))
    return next(changed, None) or next(options, None)


def _strip_prefix(key: str, part: str) -> str:
    """Return a setting's name without that of its network; a transformer's is not that of a U-Net."""
    names = ("unet", "transformer") if part == "unet" else (part,)
    prefix = next((f"{name}." for name in names if key.startswith(f"{name}.")), "")
    return key.removeprefix(prefix)


def _match_module(patterns: Mapping[str, float], module: str, default: float | None) -> float | None:
    found = (value for pattern, value in patterns.items() if re.search(rf"(?:^|\.)(?:{pattern})$", module))
    return next(found, default)


def _parse(own: Mapping[str, Any]) -> AdapterSettings:
    alpha, rank = own.get("lora_alpha", own.get("alpha")), own.get("r")
    if "oft_block_size" in own:  # `r` is the number of blocks there, and 0 if their size is given instead
        rank = None
    return AdapterSettings(
        alpha=None if alpha is None else _to_positive("lora_alpha", alpha),
        alpha_patterns=_parse_patterns(own, "alpha_pattern"),
        is_rank_stabilized=bool(own.get("use_rslora")),
        rank=None if rank is None else int(_to_positive("r", rank, smallest=1)),
        rank_patterns=_parse_patterns(own, "rank_pattern", smallest=1),
        has_magnitudes=bool(own.get("use_dora")),
        base=str(own["base_model_name_or_path"]) if own.get("base_model_name_or_path") else None,
        options=own,
    )


def _to_positive(name: str, value: Any, *, smallest: float = 0) -> float:
    """Return a number of the settings as a float, or raise `ValueError` if no training can have used it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, not {quote(value)}")
    if not smallest <= value <= _LARGEST_NUMBER or value == 0:
        raise ValueError(f"{name} must be positive and at most {_LARGEST_NUMBER:,}, not {quote(value)}")
    return float(value)


def _parse_patterns(own: Mapping[str, Any], name: str, *, smallest: float = 0) -> dict[str, float]:
    table = own.get(name) or {}
    if not isinstance(table, Mapping):
        raise ValueError(f"{name} must be a JSON object, not {quote(table)}")
    return {_compile(ending): _to_positive(name, value, smallest=smallest) for ending, value in table.items()}


def _compile(pattern: str) -> str:
    """Return a pattern that can be matched in little time, else raise `ValueError`.

    A repeated group, or many repetitions in a row, could keep Python's matcher busy for years.
    """
    repetitions = len(_REPETITION.findall(pattern))
    if len(pattern) > _LONGEST_PATTERN or _REPEATED_GROUP.search(pattern) or repetitions > _MOST_REPETITIONS:
        raise ValueError(f"the pattern {quote(pattern)} is too complex")
    return re.compile(pattern).pattern


def _read_embedded(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    return _parse_object(path, metadata[_METADATA_KEY]) if _METADATA_KEY in metadata else {}


def _read_config_file(path: Path, header: SafetensorsHeader) -> dict[str, Any]:
    config = path.with_name(ADAPTER_SETTINGS)
    if not is_file(config) or not _may_belong(path, header):
        return {}
    try:
        found = _parse_object(config, read_text(config, limit=_LARGEST_CONFIG))
    except (OSError, ValueError) as reason:
        raise StyleError(
            f"{str(config)!r} has adapter settings that cannot be read: {describe_error(reason)}",
            hint="download it again",
        ) from None
    return found if path.name.startswith(_USUAL_NAME) or _has_ranks(found, header) else {}


def _may_belong(path: Path, header: SafetensorsHeader) -> bool:
    """Tell whether settings in a file's folder may be its own: it is PEFT's, or the only adapter there."""
    if path.name.startswith(_USUAL_NAME) or format_of(header.tensors) == "peft":
        return True
    return len(list(path.parent.glob("*.safetensors"))) == 1


def _has_ranks(found: Mapping[str, Any], header: SafetensorsHeader) -> bool:
    """Tell whether a file has no ranks but those of settings that lie beside it, so that they can be its own."""
    patterns = found.get("rank_pattern")
    known = {found.get("r"), *(patterns.values() if isinstance(patterns, dict) else ())} - {None}
    keys = parse_keys(header.tensors)
    ranks = {header.tensors[name].shape[:1] for name, key in keys.items() if key.role == "down"}
    return not known or ranks <= {(rank,) for rank in known}


def _parse_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as reason:
        raise StyleError(
            f"{str(path)!r} has adapter settings that cannot be read: {reason}", hint="use another file"
        ) from None
    if not isinstance(value, dict):
        raise StyleError(f"{str(path)!r} has adapter settings that are not a JSON object", hint="use another file")
    return value
