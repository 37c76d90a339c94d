"""The original Stable Diffusion names of a diffusers U-Net's modules."""

from __future__ import annotations

import re
from collections.abc import Iterable

INSIDE = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def sgm_names(modules: Iterable[str]) -> dict[str, str]:
    """Map the original name of each U-Net module to its diffusers name.

    The numbering of the original blocks follows from how many layers a block has and which blocks attend, so
    it is read off the module names themselves and holds for a U-Net of any depth.
    """
    known = list(modules)
    layers = len(
        {match[4] for name in known if (match := BLOCK.fullmatch(name)) and match[3] == "resnets" and _is_first(match)}
    )
    attending = {
        match[2] for name in known if (match := BLOCK.fullmatch(name)) and match[1] + match[3] == "upattentions"
    }
    return {original: name for name in known if (original := _original(name, layers, attending))}


def _is_first(match: re.Match[str]) -> bool:
    return match[1] == "down" and match[2] == "0"


def _original(name: str, layers: int, attending: set[str]) -> str | None:
    if name in OUTSIDE:
        return OUTSIDE[name]
    if match := MIDDLE.fullmatch(name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{INSIDE.get(match[3], match[3])}"
    if match := BLOCK.fullmatch(name):
        return _down(match, layers) if match[1] == "down" else _up(match, layers, attending)
    return None


def _down(match: re.Match[str], layers: int) -> str:
    first = 1 + int(match[2]) * (layers + 1)
    if match[3] == "downsamplers":
        return f"input_blocks.{first + layers}.0.op"
    return f"input_blocks.{first + int(match[4])}.{_slot(match)}.{INSIDE.get(match[5], match[5])}"


def _up(match: re.Match[str], layers: int, attending: set[str]) -> str:
    first = int(match[2]) * (layers + 1)
    if match[3] == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if match[2] in attending else 1}.conv"
    return f"output_blocks.{first + int(match[4])}.{_slot(match)}.{INSIDE.get(match[5], match[5])}"


def _slot(match: re.Match[str]) -> int:
    return 1 if match[3] == "attentions" else 0
