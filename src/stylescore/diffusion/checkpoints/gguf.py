"""Reads GGUF files, which hold one network with quantised weights under the original tensor names.

diffusers loads and computes the weights of linear layers as they are; the few others that a file may quantise, such as
convolutions, are dequantised here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylescore.diffusion.checkpoints.folders import translate_errors
from stylescore.diffusion.checkpoints.layouts import Shapes
from stylescore.diffusion.quantisation import require_package
from stylescore.errors import ModelError

_MAGIC = b"GGUF"
_PACKAGE = "gguf"


def is_gguf(path: Path) -> bool:
    """Tell whether a file begins as GGUF files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_shapes(path: Path) -> Shapes:
    """Return the shape of each tensor, as it is once dequantised.

    Raises:
        ModelError: the package `gguf` is not installed, or the file is damaged.
    """
    require_package(repr(str(path)), _PACKAGE)
    import gguf

    with translate_errors(path, "header"):
        reader = gguf.GGUFReader(path)
        return {tensor.name: tuple(int(side) for side in reversed(tensor.shape)) for tensor in reader.tensors}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors; matrices stay quantised, all others are dequantised.

    Raises:
        ModelError: the file is damaged, or quantised in a way that diffusers does not know.
    """
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    try:
        tensors: dict[str, Tensor] = load_gguf_checkpoint(path)
    except ValueError as reason:
        kind = str(reason).strip().splitlines()[0]
        raise ModelError(
            f"{str(path)!r} cannot be used: {kind}", hint="get it as Q8_0, Q4_K or another kind"
        ) from reason
    return {name: tensor if tensor.ndim == 2 else dequantize_gguf_tensor(tensor) for name, tensor in tensors.items()}


def quantiser(dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments by which diffusers loads quantised weights that compute in a precision."""
    from diffusers import GGUFQuantizationConfig

    return {"quantization_config": GGUFQuantizationConfig(compute_dtype=dtype)}
