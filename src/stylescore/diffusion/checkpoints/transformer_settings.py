"""The settings of a transformer that came in one file, read from the names and shapes of its tensors.

Files of Stable Diffusion 3 and FLUX.1 state no settings, and their families have several sizes: the original code
reads the same numbers from the same tensors. What no tensor shows, such as FLUX's rotary axes, is in `sd3/` and
`flux/` beside this module.
"""

from __future__ import annotations

import math
import re
from typing import Any

from stylescore.diffusion.checkpoints.layouts import FLUX_LAYOUT, SD3_LAYOUT, Layout, Shapes


def transformer_settings(layout: Layout, shapes: Shapes) -> dict[str, Any]:
    """Return the settings that the tensors of a transformer show; none for a U-Net, which has its family's.

    Args:
        layout: of the file.
        shapes: of the network's tensors, by names without prefix.

    Raises:
        KeyError: a tensor is missing.
    """
    if layout is SD3_LAYOUT:
        return _sd3_settings(shapes)
    return _flux_settings(shapes) if layout is FLUX_LAYOUT else {}


def _sd3_settings(shapes: Shapes) -> dict[str, Any]:
    """Return an MMDiT's settings; it has as many heads as blocks (Esser et al., section 5.3)."""
    depth, width = _count(shapes, "joint_blocks"), shapes["x_embedder.proj.weight"][0]
    patch = shapes["x_embedder.proj.weight"][2]
    outputs = shapes["final_layer.linear.weight"][0] // patch**2
    dual = (re.fullmatch(r"joint_blocks\.(\d+)\.x_block\.attn2\.qkv\.weight", name) for name in shapes)
    return {
        "patch_size": patch,
        "in_channels": shapes["x_embedder.proj.weight"][1],
        "out_channels": outputs,
        "num_layers": depth,
        "num_attention_heads": depth,
        "attention_head_dim": width // depth,
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in shapes else None,
        "dual_attention_layers": sorted(int(match[1]) for match in dual if match),
    }


def _flux_settings(shapes: Shapes) -> dict[str, Any]:
    head = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    width, inputs = shapes["img_in.weight"]
    return {
        "in_channels": inputs,
        "out_channels": shapes["final_layer.linear.weight"][0],
        "num_layers": _count(shapes, "double_blocks"),
        "num_single_layers": _count(shapes, "single_blocks"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }


def _count(shapes: Shapes, blocks: str) -> int:
    """Return how many blocks of a kind a network has."""
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{blocks}.")})
