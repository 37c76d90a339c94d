"""The weights of an OpenCLIP text model under the names that transformers gives them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

WHOLE = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")
PACKED = "attn.in_proj"
PROJECTION = "text_projection"


def named_by_transformers(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return the weights of `CLIPTextModel` or `CLIPTextModelWithProjection`.

    Args:
        weights: under OpenCLIP's names, without prefix.
        layers: how many of the model's layers are wanted; Stable Diffusion 2.x leaves out the last one.
    """
    return {name: tensor for ours, theirs in weights.items() for name, tensor in _renamed(ours, theirs, layers)}


def _renamed(name: str, tensor: Tensor, layers: int) -> Iterator[tuple[str, Tensor]]:
    """Yield a tensor under its new names; OpenCLIP keeps query, key and value in one, and the projection transposed."""
    if name in WHOLE:
        yield WHOLE[name], tensor
    elif name == PROJECTION:
        yield "text_projection.weight", tensor.T.contiguous()
    elif (match := BLOCK.fullmatch(name)) and int(match[1]) < layers:
        home = f"text_model.encoder.layers.{match[1]}"
        if match[2] == PACKED:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{home}.self_attn.{part}_proj.{match[3]}", rows.contiguous()
        elif match[2] in LAYERS:
            yield f"{home}.{LAYERS[match[2]]}.{match[3]}", tensor
