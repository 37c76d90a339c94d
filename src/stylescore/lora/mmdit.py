"""The original names of an SD3 or FLUX transformer's modules, and how the original layers are cut into diffusers'.

The original code keeps queries, keys and values (and in FLUX's single blocks the first feed-forward layer) in one
layer each; diffusers has one layer for each. The last modulation layers give shift before scale in the original
and scale before shift in diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SD3_BLOCK = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
SD3_OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
FLUX_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
FLUX_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
BLOCK = re.compile(r"(single_transformer_blocks|transformer_blocks)\.(\d+)\..+")


@dataclass(frozen=True)
class Place:
    """Where the rows of one layer of a file go.

    Attributes:
        modules: the network's modules that its output rows make up, in this order.
        swapped: whether the two halves of its rows stand the other way round there.
    """

    modules: tuple[str, ...]
    swapped: bool = False


def original_places(modules: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    """Map the original name of each layer to its place; empty for a network that is neither SD3 nor FLUX.

    Args:
        modules: weight shape of each module of the model, by dotted name.
    """
    blocks = {(match[1], match[2]) for name in modules if (match := BLOCK.fullmatch(name))}
    if not blocks:
        return {}
    flux = any(kind == "single_transformer_blocks" for kind, _ in blocks)
    names: dict[str, tuple[str, ...]] = {
        name: (ours,) for name, ours in (FLUX_OUTSIDE if flux else SD3_OUTSIDE).items()
    }
    for kind, number in blocks:
        names |= _block(kind, number, flux)
    return {name: _place(ours, modules) for name, ours in names.items() if set(ours) <= set(modules)}


def _block(kind: str, number: str, flux: bool) -> dict[str, tuple[str, ...]]:
    if kind == "single_transformer_blocks":
        original, table = "single_blocks", FLUX_SINGLE
    else:
        original, table = ("double_blocks", FLUX_DOUBLE) if flux else ("joint_blocks", SD3_BLOCK)
    return {
        f"{original}.{number}.{theirs}": tuple(f"{kind}.{number}.{name}" for name in ours)
        for theirs, ours in table.items()
    }


def _place(ours: tuple[str, ...], modules: Mapping[str, tuple[int, ...]]) -> Place:
    last = ours[0].endswith(("norm_out.linear", "norm1_context.linear"))
    out, inner = modules[ours[0]][:2]
    return Place(ours, swapped=last and out == 2 * inner)
