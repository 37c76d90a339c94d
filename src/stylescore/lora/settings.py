"""Reads the alphas and ranks that PEFT and diffusers write beside the weights instead of among them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.errors import StyleError, quote
from stylescore.storage.texts import describe_error, is_file, parse_json, read_text

_METADATA_KEY = "lora_adapter_metadata"
_CONFIG_FILE = "adapter_config.json"
_LARGEST_CONFIG = 2**20
_LARGEST_NUMBER = 1_000_000
_LONGEST_PATTERN = 300
_MOST_REPETITIONS = 3
_REPEATED_GROUP = re.compile(r"\)\s*[*+?{]")
_REPETITION = re.compile(r"[*+{]")


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
    """

    alpha: float | None = None
    alpha_patterns: Mapping[str, float] = field(default_factory=dict)
    is_rank_stabilized: bool = False
    rank: int | None = None
    rank_patterns: Mapping[str, float] = field(default_factory=dict)
    has_magnitudes: bool = False

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


def read_settings(path: Path, metadata: Mapping[str, str], part: str) -> AdapterSettings:
    """Read the settings of one network from the file's own metadata, or from `adapter_config.json` beside it.

    Raises:
        StyleError: the settings cannot be read.
    """
    found = _read_embedded(path, metadata) or _read_config_file(path)
    own = {_strip_prefix(key, part): value for key, value in found.items()}
    try:
        return _parse(own)
    except (TypeError, ValueError, OverflowError, RecursionError, re.error) as reason:
        raise StyleError(
            f"{str(path)!r} has adapter settings that cannot be read: {reason}", hint="use another file"
        ) from None


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
    return AdapterSettings(
        alpha=None if alpha is None else _to_positive("lora_alpha", alpha),
        alpha_patterns=_parse_patterns(own, "alpha_pattern"),
        is_rank_stabilized=bool(own.get("use_rslora")),
        rank=None if rank is None else int(_to_positive("r", rank, smallest=1)),
        rank_patterns=_parse_patterns(own, "rank_pattern", smallest=1),
        has_magnitudes=bool(own.get("use_dora")),
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


def _read_config_file(path: Path) -> dict[str, Any]:
    config = path.with_name(_CONFIG_FILE)
    if not is_file(config) or not _belongs_to(path):
        return {}
    try:
        return _parse_object(config, read_text(config, limit=_LARGEST_CONFIG))
    except (OSError, ValueError) as reason:
        raise StyleError(
            f"{str(config)!r} has adapter settings that cannot be read: {describe_error(reason)}",
            hint="download it again",
        ) from None


def _belongs_to(path: Path) -> bool:
    """Tell whether the settings in a file's folder are its own: by its name, or as it is the only adapter there."""
    return path.name.startswith("adapter_model") or len(list(path.parent.glob("*.safetensors"))) == 1


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
