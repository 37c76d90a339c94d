"""Detects which family of models an adapter was made for, and which family a network belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from stylescore.catalog.families import (
    FLUX,
    SD1,
    SD2,
    SD3,
    SDXL,
    FamilyFacts,
    family_of_text_width,
    family_stated_as,
)
from stylescore.catalog.metadata import first_of
from stylescore.lora.keys import parse_key

UNKNOWN = "unknown"
_MARKS: tuple[tuple[re.Pattern[str], FamilyFacts], ...] = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), FLUX),
    (
        re.compile(r"joint_transformer_blocks|joint_blocks|^transformer\.|^(?:lora_transformer|lycoris)_transformer"),
        SD3,
    ),
    (re.compile(r"^lora_te2_|^text_encoder_2\.|label_emb_0"), SDXL),
)
"""Tensor names that only adapters of one family have; those of SD3 are shared by FLUX files that lack single blocks."""
_FLUX_HIDDEN_WIDTH = 3072
_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]$")


def detect_family(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """Detect an adapter's family from tensor names, else from cross-attention widths, else from its metadata.

    Args:
        shapes: shape of every tensor of the file, by its name there.
        metadata: the file's metadata.

    Returns:
        The key of a family in `stylescore.catalog.families`; a name that the metadata state, such as
        "stylescore-mini"; or "unknown".
    """
    return _from_names(shapes) or _from_widths(shapes) or _from_metadata(metadata, shapes)


def detect_model_family(modules: Mapping[str, tuple[int, ...]]) -> str:
    """Detect a network's family from the weight shapes of its modules; "unknown" where they match none."""
    if any(name.startswith("single_transformer_blocks.") for name in modules):
        return FLUX.key
    if any(name.endswith(".attn.add_q_proj") for name in modules):
        return SD3.key
    widths = _cross_attention_widths(modules)
    return _key_of_width(max(widths)) if widths else UNKNOWN


def _key_of_width(width: int) -> str:
    facts = family_of_text_width(width)
    return facts.key if facts else UNKNOWN


def _cross_attention_widths(shapes: Mapping[str, tuple[int, ...]]) -> set[int]:
    """Return the input widths of all cross-attention keys and values among these modules."""
    return {shape[1] for module, shape in shapes.items() if _CROSS_ATTENTION.search(module) and len(shape) >= 2}


def _from_names(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for pattern, facts in _MARKS:
        if any(pattern.search(name) for name in shapes):
            is_flux = facts is SD3 and _FLUX_HIDDEN_WIDTH in _input_widths(shapes).values()
            return FLUX.key if is_flux else facts.key
    return None


def _from_widths(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    inputs = _input_widths(shapes)
    widths = {width for module, width in inputs.items() if _CROSS_ATTENTION.search(module)}
    if all(module.isdigit() for module in inputs):  # numbered modules: no name tells which ones are cross-attention
        widths = {width for width in inputs.values() if family_of_text_width(width)}
    families = {_key_of_width(width) for width in widths}
    return families.pop() if len(families) == 1 and UNKNOWN not in families else None


def _input_widths(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the input width of each denoiser module of a file, where its factors show it."""
    roles: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        key = parse_key(name)
        if key is not None and key.part == "unet" and len(shape) >= 2:
            roles.setdefault(key.module, {})[key.role] = shape[1]
    found = {module: _input_width(columns) for module, columns in roles.items()}
    return {module: width for module, width in found.items() if width is not None}


def _input_width(columns: Mapping[str, int]) -> int | None:
    """Return one module's input width from the number of columns of each of its tensors."""
    left = columns.get("lokr_w1", columns.get("lokr_w1_b"))
    right = columns.get("lokr_w2", columns.get("lokr_w2_b"))
    if left is not None and right is not None:
        return left * right
    return columns.get("down", columns.get("hada_w1_b"))


def _from_metadata(metadata: Mapping[str, str], names: Iterable[str]) -> str:
    stated = first_of(metadata, ("ss_base_model_version", "modelspec.architecture"))
    if stated is not None:
        base = stated.removesuffix("/lora")
        facts = family_stated_as(base)
        return facts.key if facts else base
    if any(name.startswith("lora_te_") for name in names) and "ss_v2" in metadata:
        return SD2.key if metadata["ss_v2"] == "True" else SD1.key
    return UNKNOWN
