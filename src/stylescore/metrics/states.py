"""Reads weights of several file formats as state dicts; no file can run code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylescore.errors import ModelError

State = dict[str, Any]
_SAFE_TORCH = (2, 6)
"""Since this version, torch's reader of tensors refuses everything else in both of its formats."""
_BLOCKS = (2, 2, 3, 3, 3)
"""Convolutions of each block of a VGG16."""


def read_state(path: Path) -> State:
    """Read a file of tensors: safetensors, torch's own format, or the HED network's HDF5.

    Of torch's format only tensors and plain containers are built (`weights_only`). A state dict that is nested under
    "state_dict" is taken out, and the prefix "module." of parallel training removed.

    Raises:
        ModelError: it is in none of these formats, damaged, or needs a library that is not installed.
    """
    readers: Mapping[str, Callable[[Path], State]] = {
        ".safetensors": load_file,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
        ".h5": _read_hed,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ModelError(
            f"weights must be .safetensors, .pth, .pt, .bin or .h5, not {path.name!r}", hint="convert the file"
        )
    try:
        state = reader(path)
    except ModelError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, EOFError, _unpickling_error()) as error:
        raise ModelError(
            f"the weights {str(path)!r} cannot be read: {_shorten(error)}", hint="get the file again"
        ) from error
    return _unwrap(state)


def _unpickling_error() -> type[Exception]:
    from pickle import UnpicklingError

    return UnpicklingError


def _read_torch(path: Path) -> State:
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise ModelError(
            f"{path.name!r} can be read safely from torch 2.6 on, this is {torch.__version__}",
            hint="update torch, or convert the file to safetensors",
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it is not a table of tensors")
    return state


def _read_hed(path: Path) -> State:
    """Return the VGG16 of a HED network under torchvision's names; its layers are [height, width, in, out]."""
    try:
        import h5py
    except ImportError as error:
        raise ModelError(
            f"{path.name!r} needs h5py, which is not installed", hint="pip install 'stylescore[evaluate]'"
        ) from error
    state: State = {}
    with h5py.File(path) as file:
        number = 0
        for block, depth in enumerate(_BLOCKS, start=1):
            for n in range(depth):
                variables = file[f"block{block}/layers/{'conv2d' if n == 0 else f'conv2d_{n}'}/vars"]
                kernel, bias = (torch.from_numpy(variables[key][()]) for key in ("0", "1"))
                state[f"features.{number}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
                state[f"features.{number}.bias"] = bias
                number += 2
            number += 1
    return state


def _unwrap(state: State) -> State:
    inner = state.get("state_dict", state)
    found = {str(name).removeprefix("module."): tensor for name, tensor in inner.items()}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def _shorten(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
