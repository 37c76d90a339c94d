"""Applies the factors of 8-bit float weights in a checkpoint of one file, as ComfyUI's tools write them.

A layer's weight is stored divided by a factor, so that it fills the range of the format. There are two spellings:
`NAME.scale_weight` with a mark `scaled_fp8`, and `NAME.weight_scale` with a note `NAME.comfy_quant`, which is JSON in
bytes. Factors of the inputs (`scale_input`, `input_scale`) concern computing in 8 bits only, which is not done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stylescore.errors import ModelError, quote
from stylescore.storage.safetensors_header import TensorEntry
from stylescore.storage.texts import parse_json

FACTORS = (".scale_weight", ".weight_scale")
"""Endings of tensors by which the weights beside them have to be multiplied."""
_NOTE = ".comfy_quant"
_FLOAT8 = frozenset({"F8_E4M3", "F8_E5M2"})
_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})
_HARMLESS = frozenset({"format", "full_precision_matrix_mult"})
_METADATA = "_quantization_metadata"
_HINT = "get the model in float16 or bfloat16, or as GGUF"


def check_scaled(path: Path, tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> None:
    """Raise `ModelError` unless every factor of a file belongs to an 8-bit float weight and fits it."""
    for name, entry in tensors.items():
        if (stem := _stem(name, FACTORS)) is None:
            continue
        weight, count = tensors.get(f"{stem}.weight"), _count(entry.shape)
        if weight is None or weight.dtype not in _FLOAT8 or count not in (1, *weight.shape[:1]):
            raise _refusal(path, name)
    for stem, note in _notes(path, tensors, metadata):
        weight = tensors.get(f"{stem}.weight")
        is_known = isinstance(note, Mapping) and note.get("format") in _FORMATS and set(note) <= _HARMLESS
        if not is_known or weight is None or weight.dtype not in _FLOAT8:
            raise _refusal(path, f"{stem}{_NOTE}", f" ({quote(note)})")


def _stem(name: str, endings: tuple[str, ...]) -> str | None:
    """Return what stands before one of the endings; `None` if a name has none of them."""
    return next((name.removesuffix(end) for end in endings if name.endswith(end)), None)


def _count(shape: tuple[int, ...]) -> int:
    """Return the number of factors in a scalar, a row or a column."""
    return max(shape, default=1) if sum(side > 1 for side in shape) <= 1 else -1


def _notes(path: Path, tensors: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    """Yield the layers that have a note on how they are quantised, from tensors and from the metadata."""
    names = [name for name in tensors if name.endswith(_NOTE)]
    with safe_open(path, framework="pt") as file:
        for name in names:
            yield name.removesuffix(_NOTE), _parse(path, name, bytes(file.get_tensor(name).flatten().tolist()))
    if _METADATA in metadata:
        table = _parse(path, _METADATA, metadata[_METADATA].encode())
        layers = table.get("layers") if isinstance(table, Mapping) else None
        if not isinstance(layers, Mapping):
            raise _refusal(path, _METADATA)
        yield from layers.items()


def _parse(path: Path, name: str, text: bytes) -> Any:
    try:
        return parse_json(text.decode())
    except ValueError:
        raise _refusal(path, name) from None


def _refusal(path: Path, name: str, more: str = "") -> ModelError:
    reason = f"its weights are quantised, as {quote(name)} shows, in a way that is not supported{more}"
    return ModelError(f"{str(path)!r} cannot be used: {reason}", hint=_HINT)


def is_scaled(names: Iterable[str]) -> bool:
    """Tell whether a file has weights that are stored divided by factors."""
    return any(name.endswith(FACTORS) for name in names)


def read_weights(path: Path, prefix: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return a file's tensors whose names begin with a prefix, multiplied by their factors where they have some.

    Args:
        path: of a safetensors file.
        prefix: is left out of the names.
        dtype: of the products; `None` for bfloat16, which also takes the place of 8-bit floats without factors.
    """
    with safe_open(path, framework="pt") as file:
        known = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - it is no mapping
        factors = {f"{stem}.weight": name for name in known if (stem := _stem(name, FACTORS)) is not None}
        return {
            name.removeprefix(prefix): _multiply(file.get_tensor(name), _factor(file, factors.get(name)), dtype)
            for name in known
            if name not in factors.values()
        }


def _factor(file: Any, name: str | None) -> Tensor | None:
    return None if name is None else file.get_tensor(name)


def _multiply(weight: Tensor, factor: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """Return a weight times its factor, one or one a row; 8-bit floats without one become bfloat16."""
    if factor is not None:
        rows = factor.float().reshape(-1, *[1] * (weight.ndim - 1))
        return (weight.float() * rows).to(dtype or torch.bfloat16)
    is_small = weight.is_floating_point() and weight.element_size() == 1
    return weight.to(torch.bfloat16) if is_small else weight
