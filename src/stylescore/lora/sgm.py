"""Maps the original Stable Diffusion names of a U-Net's modules to their diffusers names."""

from __future__ import annotations

import re
from collections.abc import Iterable

_INSIDE_BLOCKS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def sgm_names(modules: Iterable[str]) -> dict[str, str]:
    """Map the original name of each U-Net module to its diffusers name.

    The numbers of the original blocks follow from how many layers a block has and which blocks have attention. Both
    are read from the module names, so this works for a U-Net of any depth.
    """
    known = list(modules)
    matches = [match for name in known if (match := _BLOCK.fullmatch(name))]
    layers = len({match[4] for match in matches if match[3] == "resnets" and _is_first(match)})
    with_attention = {match[2] for match in matches if match[1] == "up" and match[3] == "attentions"}
    return {original: name for name in known if (original := _original_name(name, layers, with_attention))}


def _is_first(match: re.Match[str]) -> bool:
    return match[1] == "down" and match[2] == "0"


def _original_name(name: str, layers: int, with_attention: set[str]) -> str | None:
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    if match := _MIDDLE.fullmatch(name):
        index = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{index}.{_INSIDE_BLOCKS.get(match[3], match[3])}"
    if match := _BLOCK.fullmatch(name):
        return _down_name(match, layers) if match[1] == "down" else _up_name(match, layers, with_attention)
    return None


def _down_name(match: re.Match[str], layers: int) -> str:
    first = 1 + int(match[2]) * (layers + 1)
    if match[3] == "downsamplers":
        return f"input_blocks.{first + layers}.0.op"
    return f"input_blocks.{first + int(match[4])}.{_slot(match)}.{_INSIDE_BLOCKS.get(match[5], match[5])}"


def _up_name(match: re.Match[str], layers: int, with_attention: set[str]) -> str:
    first = int(match[2]) * (layers + 1)
    if match[3] == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if match[2] in with_attention else 1}.conv"
    return f"output_blocks.{first + int(match[4])}.{_slot(match)}.{_INSIDE_BLOCKS.get(match[5], match[5])}"


def _slot(match: re.Match[str]) -> int:
    return 1 if match[3] == "attentions" else 0
