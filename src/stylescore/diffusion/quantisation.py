"""Layers whose weights are stored in fewer bits, by bitsandbytes or as GGUF: what can run, and what their weights are.

diffusers and transformers load and compute them; an adapter acts beside such a layer and needs only the shape of its
weight, the precision it computes in, and for some kinds the weight itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.errors import ModelError, quote

_BITSANDBYTES = "bitsandbytes"
_PLAIN = "get the model in float16 or bfloat16"


def require_usable(part: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a component's settings say that it is quantised in a way that cannot be used here.

    Args:
        part: the component, as messages name it.
        config: its settings.
    """
    settings = config.get("quantization_config")
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
    if method != _BITSANDBYTES:
        raise ModelError(f"{part} is quantised by {quote(method)}, which is not supported", hint=_PLAIN)
    require_package(part, _BITSANDBYTES)
    if not torch.cuda.is_available():
        raise ModelError(f"{part} is quantised by bitsandbytes, which needs a CUDA GPU; there is none", hint=_PLAIN)


def require_package(part: str, package: str) -> None:
    """Raise `ModelError` unless the package that a quantised component needs is installed, and accelerate with it."""
    missing = next((name for name in (package, "accelerate") if find_spec(name) is None), None)
    if missing is not None:
        raise ModelError(f"{part} is quantised, and {missing} is not installed", hint=f"pip install '.[{package}]'")


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape of a linear layer's or convolution's weight, [out, in, ...], however it is stored."""
    if isinstance(layer, nn.Linear):
        return (layer.out_features, layer.in_features)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape)


def is_quantised(layer: nn.Module) -> bool:
    """Tell whether a layer's weight is stored in another form than a tensor of numbers of its shape."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return not weight.is_floating_point() or tuple(weight.shape) != weight_shape(layer)


def has_quantised(network: nn.Module) -> bool:
    """Tell whether a layer of a network is quantised."""
    return any(isinstance(layer, nn.Linear) and is_quantised(layer) for layer in network.modules())


def compute_dtype(layer: nn.Module) -> torch.dtype:
    """Return the precision that adapters of a layer are kept in: that of its weight, or that it computes in."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not is_quantised(layer):
        return weight.dtype
    stated = getattr(layer, "compute_dtype", None) or getattr(layer, "bias", None)
    return stated if isinstance(stated, torch.dtype) else torch.float32 if stated is None else stated.dtype


def full_weight(layer: nn.Module) -> Tensor:
    """Return a layer's weight as a tensor of its shape, dequantised if need be."""
    weight: Any = layer.weight
    if not is_quantised(layer):
        return weight  # type: ignore[no-any-return]
    if hasattr(weight, "quant_type") and not hasattr(weight, "quant_state"):
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        return dequantize_gguf_tensor(weight).float()  # type: ignore[no-any-return]
    from diffusers.quantizers.bitsandbytes.utils import dequantize_bnb_weight

    state = getattr(layer, "state", None)
    return dequantize_bnb_weight(weight, state, dtype=torch.float32)  # type: ignore[no-any-return]
