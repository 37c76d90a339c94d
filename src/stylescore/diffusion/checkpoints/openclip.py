"""Converts the weights of an OpenCLIP text model to the names and layers of transformers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

_OUTSIDE_LAYERS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_IN_LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)[._](weight|bias)")
_QUERY_KEY_VALUE = "attn.in_proj"
_PROJECTION = "text_projection"


def convert_openclip(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return the weights of `CLIPTextModel` or `CLIPTextModelWithProjection`.

    Args:
        weights: by OpenCLIP's names, without prefix.
        layers: how many of the model's layers to keep; Stable Diffusion 2.x leaves out the last one.
    """
    return dict(pair for name, tensor in weights.items() for pair in _convert(name, tensor, layers))


def _convert(name: str, tensor: Tensor, layers: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that one becomes; OpenCLIP has one for query, key and value, and transposes the projection."""
    if name in _OUTSIDE_LAYERS:
        yield _OUTSIDE_LAYERS[name], tensor
    elif name == _PROJECTION:
        yield "text_projection.weight", tensor.T.contiguous()  # [width, out] -> [out, width]
    elif (match := _LAYER.fullmatch(name)) and int(match[1]) < layers:
        layer = f"text_model.encoder.layers.{match[1]}"
        if match[2] == _QUERY_KEY_VALUE:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):  # [3 width, ...] -> 3 x [width, ...]
                yield f"{layer}.self_attn.{part}_proj.{match[3]}", rows.contiguous()
        elif match[2] in _IN_LAYERS:
            yield f"{layer}.{_IN_LAYERS[match[2]]}.{match[3]}", tensor
