"""Reads the alphas and ranks that PEFT and diffusers write beside the weights instead of among them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.errors import StyleError

_METADATA_KEY = "lora_adapter_metadata"
_CONFIG_FILE = "adapter_config.json"


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
    own = {key.removeprefix(f"{part}."): value for key, value in found.items()}
    try:
        return _parse(own)
    except (TypeError, ValueError, re.error) as reason:
        raise StyleError(f"{str(path)!r} has adapter settings that cannot be read: {reason}") from None


def _match_module(patterns: Mapping[str, float], module: str, default: float | None) -> float | None:
    found = (value for pattern, value in patterns.items() if re.search(rf"(?:^|\.){pattern}$", module))
    return next(found, default)


def _parse(own: Mapping[str, Any]) -> AdapterSettings:
    alpha, rank = own.get("lora_alpha", own.get("alpha")), own.get("r")
    return AdapterSettings(
        alpha=None if alpha is None else float(alpha),
        alpha_patterns=_parse_patterns(own, "alpha_pattern"),
        is_rank_stabilized=bool(own.get("use_rslora")),
        rank=None if rank is None else int(rank),
        rank_patterns=_parse_patterns(own, "rank_pattern"),
        has_magnitudes=bool(own.get("use_dora")),
    )


def _parse_patterns(own: Mapping[str, Any], name: str) -> dict[str, float]:
    return {re.compile(ending).pattern: float(value) for ending, value in dict(own.get(name) or {}).items()}


def _read_embedded(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    return _parse_object(path, metadata[_METADATA_KEY]) if _METADATA_KEY in metadata else {}


def _read_config_file(path: Path) -> dict[str, Any]:
    config = path.with_name(_CONFIG_FILE)
    if not path.name.startswith("adapter_model") or not config.is_file():
        return {}
    return _parse_object(config, config.read_text("utf-8", errors="replace"))


def _parse_object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise StyleError(f"{str(path)!r} has adapter settings that are not a JSON object")
    return value
