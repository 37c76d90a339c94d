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
    """

    alpha: float | None = None
    patterns: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of one module; 1 when no alpha is given."""
        named = (alpha for pattern, alpha in self.patterns.items() if re.search(rf"(?:^|\.){pattern}$", module))
        alpha = next(named, self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def adapter_settings(path: Path, metadata: Mapping[str, str], part: str) -> AdapterSettings:
    """Read the settings of one part from the file's own metadata, or from `adapter_config.json` beside it.

    Raises:
        StyleError: when the settings cannot be read, or ask for DoRA.
    """
    found = _embedded(path, metadata) or _beside(path)
    own = {key.removeprefix(f"{part}."): value for key, value in found.items()}
    if own.get("use_dora"):
        raise StyleError(f"{str(path)!r} is a DoRA, which this version cannot use yet", hint="use a plain LoRA")
    try:
        return _settings(own)
    except (TypeError, ValueError, re.error) as reason:
        raise StyleError(f"{str(path)!r} has adapter settings that cannot be read: {reason}") from None


def _settings(own: Mapping[str, Any]) -> AdapterSettings:
    alpha = own.get("lora_alpha")
    patterns = {re.compile(name).pattern: float(value) for name, value in dict(own.get("alpha_pattern") or {}).items()}
    return AdapterSettings(None if alpha is None else float(alpha), patterns, bool(own.get("use_rslora")))


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
