"""Guesses which family of models an adapter was made for, and which family a model is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from stylescore.catalog.metadata import first_of
from stylescore.lora.keys import parse_key

LABELS = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
}
TELLTALES = (
    (re.compile(r"double_blocks|single_blocks|single_transformer_blocks"), "flux"),
    (
        re.compile(r"joint_transformer_blocks|joint_blocks|^transformer\.|^(?:lora_transformer|lycoris)_transformer"),
        "sd3",
    ),
    (re.compile(r"^lora_te2_|^text_encoder_2\.|label_emb_0"), "sdxl"),
)
FLUX_WIDTH = 3072
CROSS = re.compile(r"attn2[._]to_[kv]$")
WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
STATED = (
    (re.compile(r"sdxl|xl[-_ ]?base|stable-diffusion-xl", re.I), "sdxl"),
    (re.compile(r"^flux", re.I), "flux"),
    (re.compile(r"^sd[_ -]?v?3|stable-diffusion-3", re.I), "sd3"),
    (re.compile(r"^sd[_ -]?v?2|stable-diffusion-v?2", re.I), "sd2"),
    (re.compile(r"^sd[_ -]?v?1|stable-diffusion-v?1", re.I), "sd1"),
)


def label(family: str) -> str:
    """Return the family's name for readers."""
    return LABELS.get(family, family)


def guess_family(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> str:
    """Guess from tensor names, then from the width of cross-attention, then from what the file states.

    Args:
        shapes: shape of every tensor of the file, by its name there.
        metadata: the file's metadata.

    Returns:
        One of "sd1", "sd2", "sdxl", "sd3", "flux"; a name the metadata state, such as "stylescore-mini";
        or "unknown".
    """
    return _from_names(shapes) or _from_widths(shapes) or _from_metadata(metadata, shapes)


def family_of_modules(modules: Mapping[str, tuple[int, ...]]) -> str:
    """Return the family of a network from its modules' weight shapes, or "unknown"."""
    if any(name.startswith("single_transformer_blocks.") for name in modules):
        return "flux"
    if any(name.endswith(".attn.add_q_proj") for name in modules):
        return "sd3"
    widths = cross_attention_widths(modules)
    return family_of_width(max(widths)) if widths else "unknown"


def family_of_width(width: int) -> str:
    """Return the family whose text features are `width` wide, or "unknown"."""
    return WIDTHS.get(width, "unknown")


def cross_attention_widths(shapes: Mapping[str, tuple[int, ...]]) -> set[int]:
    """Return the input widths of all cross-attention keys and values among these modules."""
    return {shape[1] for module, shape in shapes.items() if CROSS.search(module) and len(shape) >= 2}


def _from_names(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for pattern, family in TELLTALES:
        if any(pattern.search(name) for name in shapes):
            wide = family == "sd3" and FLUX_WIDTH in _input_widths(shapes).values()
            return "flux" if wide else family
    return None


def _from_widths(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    inputs = _input_widths(shapes)
    widths = {width for module, width in inputs.items() if CROSS.search(module)}
    if all(module.isdigit() for module in inputs):
        widths = {width for width in inputs.values() if width in WIDTHS}  # modules without names
    families = {family_of_width(width) for width in widths}
    return families.pop() if len(families) == 1 and "unknown" not in families else None


def _input_widths(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return how many features each denoiser module of a file reads, where its factors tell."""
    roles: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        key = parse_key(name)
        if key is not None and key.part == "unet" and len(shape) >= 2:
            roles.setdefault(key.module, {})[key.role] = shape[1]
    found = {module: _input_width(columns) for module, columns in roles.items()}
    return {module: width for module, width in found.items() if width is not None}


def _input_width(columns: Mapping[str, int]) -> int | None:
    """Return the input width that one module's tensors tell, given how many columns each has."""
    left = columns.get("lokr_w1", columns.get("lokr_w1_b"))
    right = columns.get("lokr_w2", columns.get("lokr_w2_b"))
    if left is not None and right is not None:
        return left * right
    return columns.get("down", columns.get("hada_w1_b"))


def _from_metadata(metadata: Mapping[str, str], names: Iterable[str]) -> str:
    stated = first_of(metadata, ("ss_base_model_version", "modelspec.architecture"))
    if stated is not None:
        bare = stated.removesuffix("/lora")
        return next((family for pattern, family in STATED if pattern.search(bare)), bare)
    if any(name.startswith("lora_te_") for name in names) and "ss_v2" in metadata:
        return "sd2" if metadata["ss_v2"] == "True" else "sd1"
    return "unknown"
