"""Parses adapter tensor names: which network, which module, which role, and which program's spelling."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Format = Literal["kohya", "diffusers", "peft", "cloneofsimo"]
"""The program whose spelling of tensor names a file uses."""
Part = Literal["unet", "text_encoder", "text_encoder_2", "text_encoder_3"]
"""The network that a part of a file changes; "unet" stands for the denoiser, be it a U-Net or a transformer."""

_ENDINGS: tuple[tuple[re.Pattern[str], str | None, Format | None], ...] = tuple(
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
"""(ending, role, spelling); role `None`: the matched name itself; spelling `None`: that of the other tensors."""
_NUMBERED = re.compile(r"(?P<part>unet|text_encoder):(?P<number>\d+):(?P<role>up|down)")
_PREFIXES: tuple[tuple[str, Part], ...] = (
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
_WRAPPERS = ("base_model.model.", "model.")
_OLD_OUTPUT = re.compile(r"\.to_out$")
_OLD_TEXT = re.compile(r"\.self_attn\.to_(q|k|v|out)$")


@dataclass(frozen=True)
class Key:
    """The parts of one tensor name.

    Attributes:
        part: the network that is changed.
        module: its module, without prefix, in the file's own spelling.
        role: what the tensor is to the change, such as "down", "alpha" or "hada_w1_a".
        format: the program whose spelling this is; `None` where several programs share it.
    """

    part: Part
    module: str
    role: str
    format: Format | None


def parse_key(name: str) -> Key | None:
    """Parse a tensor name; `None` if it belongs to no adapter that can be applied."""
    if match := _NUMBERED.fullmatch(name):
        part: Part = "unet" if match["part"] == "unet" else "text_encoder"
        return Key(part, match["number"], match["role"], "cloneofsimo")
    for ending, role, spelling in _ENDINGS:
        if match := ending.fullmatch(name):
            part, module = _split_prefix(match["stem"])
            return Key(part, module, role or match["role"], spelling)
    return None


def _split_prefix(stem: str) -> tuple[Part, str]:
    for wrapper in _WRAPPERS:
        stem = stem.removeprefix(wrapper)
    for prefix, part in _PREFIXES:
        if stem.startswith(prefix):
            return part, _normalize(stem.removeprefix(prefix))
    return ("text_encoder" if stem.startswith("text_model.") else "unet"), _normalize(stem)


def _normalize(module: str) -> str:
    """Remove wrappers inside a module name, and give attention layers their present names."""
    module = module.removeprefix("base_model.model.").replace(".processor.", ".")
    return _OLD_OUTPUT.sub(".to_out.0", _OLD_TEXT.sub(r".self_attn.\1_proj", module))
