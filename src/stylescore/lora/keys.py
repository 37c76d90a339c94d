"""Parses adapter tensor names: which network, which module, which role, and which program's spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Format = Literal["kohya", "diffusers", "peft", "cloneofsimo", "xlabs"]
"""The program whose spelling of tensor names a file uses."""
Part = Literal["unet", "text_encoder", "text_encoder_2", "text_encoder_3"]
"""The network that a part of a file changes; "unet" stands for the denoiser, be it a U-Net or a transformer."""

BIAS = ".bias"
"""End of the name of a change that is one of a module's bias instead of its weight."""
WHOLE = "set"
"""Role of a tensor that replaces a weight or a bias."""
_PLAIN = r"(?:\.lora|_lora|\.lora_linear_layer)"
_ENDINGS: tuple[tuple[re.Pattern[str], str | None, Format | None], ...] = tuple(
    (re.compile(f"(?P<stem>.+?){ending}"), role, spelling)
    for ending, role, spelling in (
        (r"[._]lora_down(?:\.weight)?", "down", "kohya"),
        (r"[._]lora_up(?:\.weight)?", "up", "kohya"),
        (r"[._]lora_mid(?:\.weight)?", "mid", "kohya"),
        (r"\.lora_A(?:\.[^.]+)?\.weight", "down", "peft"),
        (r"\.lora_B(?:\.[^.]+)?\.weight", "up", "peft"),
        (r"\.lora_embedding_A(?:\.[^.]+)?", "table_down", "peft"),
        (r"\.lora_embedding_B(?:\.[^.]+)?", "table_up", "peft"),
        (r"(?P<stream>\.(?:qkv|proj))_lora(?P<number>[12]?)\.down\.weight", "down", "xlabs"),
        (r"(?P<stream>\.(?:qkv|proj))_lora(?P<number>[12]?)\.up\.weight", "up", "xlabs"),
        (_PLAIN + r"\.down\.weight", "down", "diffusers"),
        (_PLAIN + r"\.up\.weight", "up", "diffusers"),
        (r"(?:\.lora_B(?:\.[^.]+)?|[._]lora_up|" + _PLAIN + r"\.up)\.bias", "up_bias", None),
        (_PLAIN + r"?\.(?:alpha|network_alpha)", "alpha", None),
        (r"\.(?P<role>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.default)?(?:\.weight)?", None, None),
        (r"\.dora_scale(?:\.weight)?", "dora_scale", None),
        (r"\.scalar", "scalar", "kohya"),
        (r"\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?", "magnitude", None),
        (r"\.(?P<role>oft_blocks|oft_diag|rescale|on_input|bias_(?:indices|values|size))", None, "kohya"),
        (r"\.oft_R(?:\.[^.]+)?\.weight", "oft_r", "peft"),
        (r"\.oft_R\.scaled_oft", "oft_scaled", None),
        (r"\.boft_R(?:\.[^.]+)?", "boft_r", "peft"),
        (r"\.boft_s(?:\.[^.]+)?", "boft_s", "peft"),
        (r"\.ia3_l(?:\.[^.]+)?", "ia3_l", "peft"),
        (r"\.(?P<role>a1|a2|b1|b2|bm)\.weight", None, "kohya"),
        (r"\.(?:diff|w_norm)", "diff", "kohya"),
        (r"(?P<bias>)\.(?:diff_b|b_norm)", "diff", "kohya"),
        (r"\.set_weight", WHOLE, "kohya"),
    )
)
"""(ending, role, spelling); role `None`: the matched name itself; spelling `None`: that of the other tensors."""
_NORM_SCALE = re.compile(r"(?P<stem>.+\.norm\.(?:query|key)_norm)\.scale")
_WHOLE = re.compile(r"(?P<stem>.+?)(?:\.modules_to_save(?:\.[^.]+)?)?(?:\.weight|(?P<bias>\.bias))")
_NUMBERED = re.compile(r"(?P<part>unet|text_encoder):(?P<number>\d+):(?P<role>up|down)")
_PREFIXES: tuple[tuple[str, Part], ...] = (
    ("lora_unet_", "unet"),
    ("lora_transformer_", "unet"),
    ("oft_unet_", "unet"),
    *((f"{program}_{name}_", "text_encoder") for program in ("lora", "oft") for name in ("te", "te1")),
    *((f"{program}_te2_", "text_encoder_2") for program in ("lora", "oft")),
    ("lora_te3_", "text_encoder_3"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("diffusion_model.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder_3.", "text_encoder_3"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_h.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3"),
    ("clip_l.", "text_encoder"),
    ("clip_g.", "text_encoder_2"),
    ("t5.", "text_encoder_3"),
)
_REPEATED = ("unet.", "unet_", "transformer.", "text_encoder.", "base_model.model.")
_WRAPPERS = ("base_model.model.", "model.", "lycoris_")
_TEXT_LAYERS = ("text_model.", "text_model_", "encoder.layers.", "encoder_layers_")
"""Beginnings of a CLIP layer's name, where no prefix names the network; newer transformers have no `text_model`."""
_OLD_OUTPUT = re.compile(r"\.to_out$")
_OLD_TEXT = re.compile(r"\.self_attn\.to_(q|k|v|out)$")


@dataclass(frozen=True)
class Key:
    """The parts of one tensor name.

    Attributes:
        part: the network that is changed.
        module: its module, without prefix, in the file's own spelling; with `.bias` at the end if its bias is changed.
        role: what the tensor is to the change, such as "down", "alpha" or "hada_w1_a".
        format: the program whose spelling this is; `None` where several programs share it.
    """

    part: Part
    module: str
    role: str
    format: Format | None


def parse_keys(names: Iterable[str]) -> dict[str, Key]:
    """Parse the tensor names of a file; empty if it holds no adapter, and without names that belong to none.

    Whole weights and biases count beside an adapter's tensors only: alone they are a model.
    """
    keys = {name: key for name in names if (key := parse_key(name)) is not None}
    return keys if any(key.role != WHOLE for key in keys.values()) else {}


def format_of(names: Iterable[str]) -> Format:
    """Return the program whose names a file uses: that of the first tensor whose spelling is one program's alone."""
    keys = parse_keys(names).values()
    return next((key.format for key in keys if key.format is not None), "kohya")


@lru_cache(maxsize=2**14)
def parse_key(name: str) -> Key | None:
    """Parse a tensor name; `None` if it belongs to no adapter that can be applied."""
    if match := _NUMBERED.fullmatch(name):
        part: Part = "unet" if match["part"] == "unet" else "text_encoder"
        return Key(part, match["number"], match["role"], "cloneofsimo")
    for ending, role, spelling in _ENDINGS:
        if match := ending.fullmatch(name):
            return _make_key(match, role, spelling)
    return _parse_whole(name)


def _make_key(match: re.Match[str], role: str | None, spelling: Format | None) -> Key:
    found = match.groupdict()
    part, module = split_prefix(f"{match['stem']}{found.get('stream', '')}{found.get('number', '')}")
    end = BIAS if found.get("bias") is not None else ""
    if role == "oft_r" and match["stem"].startswith("lora_"):
        role, spelling = "oft_series", "kohya"
    return Key(part, module + end, role or match["role"], spelling)


def _parse_whole(name: str) -> Key | None:
    """Parse the name of a whole weight or bias, which says which network it belongs to, or of one of FLUX's norms."""
    if match := _NORM_SCALE.fullmatch(name):
        return _make_key(match, WHOLE, None)
    match = _WHOLE.fullmatch(name)
    if match is None or not _has_prefix(match["stem"]):
        return None
    return _make_key(match, WHOLE, None)


def _has_prefix(stem: str) -> bool:
    return stem.startswith(("base_model.model.", "lycoris_", *(prefix for prefix, _ in _PREFIXES)))


def split_prefix(stem: str) -> tuple[Part, str]:
    """Split a layer's name in a file into its network and its module, in dotted names with their present spelling."""
    for wrapper in _WRAPPERS:
        stem = stem.removeprefix(wrapper)
    for prefix, part in _PREFIXES:
        if stem.startswith(prefix):
            return part, _normalize(stem.removeprefix(prefix))
    return ("text_encoder" if stem.startswith(_TEXT_LAYERS) else "unet"), _normalize(stem)


def _normalize(module: str) -> str:
    """Remove what repeats the prefix and wrappers, and give attention layers their present names."""
    for repeated in _REPEATED:
        module = module.removeprefix(repeated)
    module = module.replace(".processor.", ".").removesuffix(".base_layer")
    return _OLD_OUTPUT.sub(".to_out.0", _OLD_TEXT.sub(r".self_attn.\1_proj", module))
