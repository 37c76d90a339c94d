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
    other_family_of_width,
    other_family_stated_as,
    other_family_with,
)
from stylescore.lora.keys import parse_keys

UNKNOWN = "unknown"
_STATEMENTS = ("modelspec.architecture", "ss_base_model_version")
_MARKS: tuple[tuple[re.Pattern[str], FamilyFacts], ...] = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), FLUX),
    (
        re.compile(
            r"joint_blocks|(?<!single_)transformer_blocks[._]\d+[._]attn[._]|^transformer\."
            r"|^(?:lora_transformer|lycoris)_transformer"
        ),
        SD3,
    ),
    (re.compile(r"^lora_te2_|^text_encoder_2\.|^text_encoders\.clip_g\.|label_emb_0"), SDXL),
)
"""Tensor names that only adapters of one family have; those of SD3 are shared by FLUX files that lack single blocks."""
_FLUX_HIDDEN_WIDTH = 3072
_FLUX_DOUBLE_BLOCKS = 19
_QWEN_IMAGE = "Qwen-Image"
_CROSS_ATTENTION = re.compile(r"attn2[._]to_[kv]$")
_FIRST_ATTENTION = re.compile(r"^transformer_blocks[._]\d+[._]attn1[._]to_q$")
_JOINT_BLOCK = re.compile(r"^transformer_blocks[._](\d+)[._]attn[._]")
_INPUT_ROLES = ("down", "hada_w1_b", "diff", "set", "a2")
"""Roles of tensors that have as many columns as a weight has inputs."""


def detect_family(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], base: str | None = None) -> str:
    """Detect an adapter's family: what the file states, else tensor names, else cross-attention widths.

    Args:
        shapes: shape of every tensor of the file, by its name there.
        metadata: the file's metadata.
        base: the base model that its settings name.

    Returns:
        The key of a family in `stylescore.catalog.families`; the label of one that is not supported; a name that the
        metadata state, such as "stylescore-mini"; or "unknown".
    """
    statements = _statements(metadata, base)
    return (
        _from_statements(statements)
        or detect_other_family(shapes, metadata, base)
        or _from_names(shapes)
        or _from_widths(shapes)
        or _from_kohya_metadata(metadata, shapes)
        or next(iter(statements), UNKNOWN)
    )


def detect_other_family(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], base: str | None = None
) -> str | None:
    """Return the label of the unsupported family that an adapter was made for; `None` if it may be a supported one."""
    for statement in _statements(metadata, base):
        if label := other_family_stated_as(statement):
            return label
        if family_stated_as(statement):
            return None
    return other_family_with(shapes) or _other_from_blocks(shapes)


def _statements(metadata: Mapping[str, str], base: str | None) -> list[str]:
    """Return the names by which a file and its settings state the base model."""
    stated = [metadata.get(key, "").strip().removesuffix("/lora") for key in _STATEMENTS]
    return [name for name in (*stated, base or "") if name not in {"", "None", "none", "null"}]


def _from_statements(statements: Iterable[str]) -> str | None:
    for statement in statements:
        if label := other_family_stated_as(statement):
            return label
        if facts := family_stated_as(statement):
            return facts.key
    return None


def _other_from_blocks(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Name a transformer whose blocks have an attention, or a number, that no supported one has."""
    inputs = _input_widths(shapes)
    if first := [module for module in inputs if _FIRST_ATTENTION.match(module)]:
        return other_family_of_width(inputs[first[0]])
    if any("single_" in module for module in inputs):
        return None
    numbers = [int(match[1]) for module in inputs if (match := _JOINT_BLOCK.match(module))]
    is_wide = _FLUX_HIDDEN_WIDTH in inputs.values()
    return _QWEN_IMAGE if is_wide and max(numbers, default=0) >= _FLUX_DOUBLE_BLOCKS else None


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
    for name, key in parse_keys(shapes).items():
        if key.part == "unet" and len(shapes[name]) >= 2:
            roles.setdefault(key.module, {})[key.role] = shapes[name][1]
    found = {module: _input_width(columns) for module, columns in roles.items()}
    return {module: width for module, width in found.items() if width is not None}


def _input_width(columns: Mapping[str, int]) -> int | None:
    """Return one module's input width from the number of columns of each of its tensors."""
    left = columns.get("lokr_w1", columns.get("lokr_w1_b"))
    right = columns.get("lokr_w2", columns.get("lokr_w2_b"))
    if left is not None and right is not None:
        return left * right
    return next((columns[role] for role in _INPUT_ROLES if role in columns), None)


def _from_kohya_metadata(metadata: Mapping[str, str], names: Iterable[str]) -> str | None:
    if any(name.startswith("lora_te_") for name in names) and "ss_v2" in metadata:
        return SD2.key if metadata["ss_v2"] == "True" else SD1.key
    return None
