"""Maps the original names of an SD3 or FLUX transformer's layers to diffusers' modules, which split some of them.

The original code has one layer for queries, keys and values (and in FLUX's single blocks for the first feed-forward
layer too); diffusers has one module for each. The last modulation layers give shift before scale in the original code
and scale before shift in diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SD3_BLOCK = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn.ln_q": ("attn.norm_q",),
    "x_block.attn.ln_k": ("attn.norm_k",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.attn.ln_q": ("attn.norm_added_q",),
    "context_block.attn.ln_k": ("attn.norm_added_k",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
_SD3_OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_FLUX_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
}
_FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
_XLABS_DOUBLE = {
    "qkv1": _FLUX_DOUBLE["img_attn.qkv"],
    "proj1": _FLUX_DOUBLE["img_attn.proj"],
    "qkv2": _FLUX_DOUBLE["txt_attn.qkv"],
    "proj2": _FLUX_DOUBLE["txt_attn.proj"],
}
_XLABS_SINGLE = {"qkv": ("attn.to_q", "attn.to_k", "attn.to_v"), "proj": ("proj_out",)}
"""XLabs' names inside FLUX's blocks: of attention processors, 1 for the picture and 2 for the text."""
_FLUX_OUTSIDE = {
    "img_in": "x_embedder",
    "img_in.proj": "x_embedder",
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
_BLOCK = re.compile(r"(single_transformer_blocks|transformer_blocks)\.(\d+)\..+")


@dataclass(frozen=True)
class Target:
    """The modules that one layer of a file stands for.

    Attributes:
        modules: the network's modules whose output rows make up the layer's, in this order.
        swaps_halves: whether the two halves of the rows are in the other order there.
    """

    modules: tuple[str, ...]
    swaps_halves: bool = False


def mmdit_targets(modules: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    """Map the original name of each layer to its target; empty for a network that is neither SD3 nor FLUX.

    Args:
        modules: weight shape of each module of the model, by dotted name.
    """
    blocks = {(match[1], match[2]) for name in modules if (match := _BLOCK.fullmatch(name))}
    if not blocks:
        return {}
    is_flux = any(kind == "single_transformer_blocks" for kind, _ in blocks)
    names: dict[str, tuple[str, ...]] = {
        original: (name,) for original, name in (_FLUX_OUTSIDE if is_flux else _SD3_OUTSIDE).items()
    }
    for kind, number in blocks:
        names |= _block_names(kind, number, is_flux)
    return {original: _make_target(ours, modules) for original, ours in names.items() if set(ours) <= set(modules)}


def _block_names(kind: str, number: str, is_flux: bool) -> dict[str, tuple[str, ...]]:
    if kind == "single_transformer_blocks":
        block, table = "single_blocks", _FLUX_SINGLE | _XLABS_SINGLE
    else:
        block, table = ("double_blocks", _FLUX_DOUBLE | _XLABS_DOUBLE) if is_flux else ("joint_blocks", _SD3_BLOCK)
    return {
        f"{block}.{number}.{original}": tuple(f"{kind}.{number}.{name}" for name in names)
        for original, names in _with_pieces(table).items()
    }


def _with_pieces(table: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return a table with the numbered pieces of layers that the model splits, as OneTrainer's files name them."""
    pieces = {
        f"{original}.{number}": (name,)
        for original, names in table.items()
        for number, name in enumerate(names)
        if len(names) > 1
    }
    return {**table, **pieces}


def _make_target(names: tuple[str, ...], modules: Mapping[str, tuple[int, ...]]) -> Target:
    is_last = names[0].endswith(("norm_out.linear", "norm1_context.linear"))
    out, inner = (*modules[names[0]], 0)[:2]
    return Target(names, swaps_halves=is_last and out == 2 * inner)
