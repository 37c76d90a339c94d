"""The grammar of adapter tensor names: which model, which module, which role, in whose spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Format = Literal["kohya", "diffusers", "peft", "cloneofsimo"]
Part = Literal["unet", "text_encoder", "text_encoder_2", "text_encoder_3"]

# (ending, role, spelling); the role of a LoHa or LoKr tensor is its own name, and a spelling of `None` is that of
# the neighbours
ENDINGS: tuple[tuple[re.Pattern[str], str | None, Format | None], ...] = tuple(
    (re.compile(f"(?P<stem>.+?){ending}"), role, spelling)
    for ending, role, spelling in (
        (r"\.lora_down(?:\.weight)?", "down", "kohya"),
        (r"\.lora_up(?:\.weight)?", "up", "kohya"),
        (r"\.lora_mid(?:\.weight)?", "mid", "kohya"),
        (r"\.lora_A(?:\.[^.]+)?\.weight", "down", "peft"),
        (r"\.lora_B(?:\.[^.]+)?\.weight", "up", "peft"),
        (r"(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight", "down", "diffusers"),
        (r"(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight", "up", "diffusers"),
        (r"(?:\.lora|_lora|\.lora_linear_layer)?\.(?:alpha|network_alpha)", "alpha", None),
        (r"\.(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.default)?(?:\.weight)?", None, None),
        (r"\.dora_scale(?:\.weight)?", "dora_scale", None),
        (r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude", None),
    )
)
NUMBERED = re.compile(r"(?P<part>unet|text_encoder):(?P<number>\d+):(?P<role>up|down)")
PARTS: tuple[tuple[str, Part], ...] = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "unet"),
    ("lycoris_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te3_", "text_encoder_3"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("diffusion_model.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder_3.", "text_encoder_3"),
)
WRAPPERS = ("base_model.model.", "model.")
OLD_OUTPUT = re.compile(r"\.to_out$")
OLD_TEXT = re.compile(r"\.self_attn\.to_(q|k|v|out)$")


@dataclass(frozen=True)
class Key:
    """One tensor name taken apart; `module` has no prefix but keeps the file's own spelling."""

    part: Part
    module: str
    role: str
    format: Format | None


def parse_key(name: str) -> Key | None:
    """Take a tensor name apart, or return `None` when it belongs to no adapter that can be applied."""
    if match := NUMBERED.fullmatch(name):
        part: Part = "unet" if match["part"] == "unet" else "text_encoder"
        return Key(part, match["number"], match["role"], "cloneofsimo")
    for ending, role, spelling in ENDINGS:
        if match := ending.fullmatch(name):
            part, module = _split_part(match["stem"])
            return Key(part, module, role or match["role"], spelling)
    return None


def _split_part(stem: str) -> tuple[Part, str]:
    for wrapper in WRAPPERS:
        stem = stem.removeprefix(wrapper)
    for prefix, part in PARTS:
        if stem.startswith(prefix):
            return part, _tidy(stem.removeprefix(prefix))
    return ("text_encoder" if stem.startswith("text_model.") else "unet"), _tidy(stem)


def _tidy(module: str) -> str:
    """Drop wrappers inside a name, and give the layers of attention their present names."""
    module = module.removeprefix("base_model.model.").replace(".processor.", ".")
    return OLD_OUTPUT.sub(".to_out.0", OLD_TEXT.sub(r".self_attn.\1_proj", module))
