"""The grammar of LoRA tensor names: which model, which module, which role, in whose spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Format = Literal["kohya", "diffusers", "peft"]
Part = Literal["unet", "text_encoder"]
Role = Literal["down", "up", "alpha"]

# (ending, role, spelling); the spelling of an alpha is that of its neighbours
ENDINGS: tuple[tuple[str, Role, Format | None], ...] = (
    (r"\.lora_down(?:\.weight)?", "down", "kohya"),
    (r"\.lora_up(?:\.weight)?", "up", "kohya"),
    (r"\.lora_A(?:\.[^.]+)?\.weight", "down", "peft"),
    (r"\.lora_B(?:\.[^.]+)?\.weight", "up", "peft"),
    (r"(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight", "down", "diffusers"),
    (r"(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight", "up", "diffusers"),
    (r"(?:\.lora|_lora)?\.(?:alpha|network_alpha)", "alpha", None),
)
PARTS: tuple[tuple[str, Part], ...] = (
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("diffusion_model.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder"),
)
SECOND_ENCODER = ("lora_te2_", "text_encoder_2.")
WRAPPERS = ("base_model.model.", "model.")
OLD_OUTPUT = re.compile(r"\.to_out$")

# kinds of adapter that other programs write and this one cannot apply
FOREIGN: tuple[tuple[str, str], ...] = (
    (r"dora_scale|lora_magnitude_vector", "DoRA"),
    (r"\.hada_", "LoHa"),
    (r"\.lokr_", "LoKr"),
    (r"\.lora_mid|\.cp_mid", "LoCon with a Tucker core"),
    (r"\.oft_|\.boft_", "OFT"),
    (r"\.on_input$", "IA3"),
    (r"\.(?:a1|a2|b1|b2)\.weight$", "GLoRA"),
    (r"\.diff(?:_b)?$|\.(?:w|b)_norm$|\.set_weight$", "full weight difference"),
    (r"^(?:unet|text_encoder):\d+:(?:up|down)$", "cloneofsimo"),
)
# things that are no adapter at all
STRANGERS: tuple[tuple[str, str], ...] = (
    (r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^conditioner\.", "a full model"),
    (r"^control_model\.|^controlnet_|^input_hint_block", "a ControlNet"),
    (r"^emb_params$|^string_to_|^clip_[lg]$", "a text embedding"),
    (
        r"^(?:conv_in|down_blocks|time_embedding|encoder|decoder|text_model)\..*(?:weight|bias)$",
        "a full model",
    ),
)


@dataclass(frozen=True)
class Key:
    """One tensor name taken apart; `module` has no prefix but keeps the file's own spelling."""

    part: Part
    module: str
    role: Role
    format: Format | None


def parse_key(name: str) -> Key | None:
    """Take a tensor name apart, or return `None` when it does not belong to a plain LoRA."""
    for ending, role, spelling in ENDINGS:
        match = re.fullmatch(f"(.+?){ending}", name)
        if match:
            part, module = _split_part(match[1])
            return Key(part, module, role, spelling)
    return None


def foreign_kind(names: Iterable[str]) -> str | None:
    """Name the kind of adapter that these tensors belong to, when it is one that cannot be applied."""
    return _first_match(names, FOREIGN)


def stranger_kind(names: Iterable[str]) -> str | None:
    """Say what a file that is no adapter seems to be."""
    return _first_match(names, STRANGERS)


def _first_match(names: Iterable[str], table: tuple[tuple[str, str], ...]) -> str | None:
    known = list(names)
    for pattern, kind in table:
        if any(re.search(pattern, name) for name in known):
            return kind
    return None


def _split_part(stem: str) -> tuple[Part, str]:
    for wrapper in WRAPPERS:
        stem = stem.removeprefix(wrapper)
    for prefix, part in PARTS:
        if stem.startswith(prefix):
            return part, _second(prefix) + _tidy(stem.removeprefix(prefix))
    return ("text_encoder" if stem.startswith("text_model.") else "unet"), _tidy(stem)


def _second(prefix: str) -> str:
    return "text_encoder_2." if prefix in SECOND_ENCODER else ""


def _tidy(module: str) -> str:
    """Drop wrappers inside a name, and give the attention's output layer its present name."""
    module = module.removeprefix("base_model.model.").replace(".processor.", ".")
    return OLD_OUTPUT.sub(".to_out.0", module)
