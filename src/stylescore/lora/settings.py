"""The alphas that PEFT and diffusers keep beside the weights instead of among them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.errors import StyleError

EMBEDDED = "lora_adapter_metadata"
BESIDE = "adapter_config.json"


@dataclass(frozen=True)
class AdapterSettings:
    """One model's part of a PEFT configuration.

    Attributes:
        alpha: alpha of all modules that no pattern names, or `None` when nothing is said.
        patterns: alpha by the ending of a module's name.
        rank_stabilised: whether scale is alpha / sqrt(rank) instead of alpha / rank.
        rank: rank of all modules that no pattern names, or `None` when nothing is said.
        rank_patterns: rank by the ending of a module's name.
        decomposed: whether the modules' lengths were trained too (DoRA).
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    rank: int | None = None
    rank_patterns: Mapping[str, float] = field(default_factory=dict)
    decomposed: bool = False

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of one module; 1 when no alpha is given."""
        alpha = _named(self.patterns, module, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)

    def whole_scale(self, module: str) -> float:
        """Return the factor of a module whose tensors show no rank: alpha / rank where both are told, else 1."""
        rank = _named(self.rank_patterns, module, self.rank)
        return self.scale(module, int(rank)) if rank else 1.0


def _named(patterns: Mapping[str, float], module: str, otherwise: float | None) -> float | None:
    found = (value for pattern, value in patterns.items() if re.search(rf"(?:^|\.){pattern}$", module))
    return next(found, otherwise)


def adapter_settings(path: Path, metadata: Mapping[str, str], part: str) -> AdapterSettings:
    """Read the settings of one part from the file's own metadata, or from `adapter_config.json` beside it.

    Raises:
        StyleError: when the settings cannot be read.
    """
    found = _embedded(path, metadata) or _beside(path)
    own = {key.removeprefix(f"{part}."): value for key, value in found.items()}
    try:
        return _settings(own)
    except (TypeError, ValueError, re.error) as reason:
        raise StyleError(f"{str(path)!r} has adapter settings that cannot be read: {reason}") from None


def _settings(own: Mapping[str, Any]) -> AdapterSettings:
    alpha, rank = own.get("lora_alpha", own.get("alpha")), own.get("r")
    return AdapterSettings(
        alpha=None if alpha is None else float(alpha),
        patterns=_patterns(own, "alpha_pattern"),
        rank_stabilised=bool(own.get("use_rslora")),
        rank=None if rank is None else int(rank),
        rank_patterns=_patterns(own, "rank_pattern"),
        decomposed=bool(own.get("use_dora")),
    )


def _patterns(own: Mapping[str, Any], name: str) -> dict[str, float]:
    return {re.compile(ending).pattern: float(value) for ending, value in dict(own.get(name) or {}).items()}


def _embedded(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    return _object(path, metadata[EMBEDDED]) if EMBEDDED in metadata else {}


def _beside(path: Path) -> dict[str, Any]:
    config = path.with_name(BESIDE)
    if not path.name.startswith("adapter_model") or not config.is_file():
        return {}
    return _object(config, config.read_text("utf-8", errors="replace"))


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise StyleError(f"{str(path)!r} has adapter settings that are no JSON object")
    return value
