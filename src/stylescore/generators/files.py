"""The file of a generator: a safetensors file whose metadata say which network it is and what it was trained on.

The file of a generator that is a diffusion model with a LoRA is a LoRA file like any other, with the same facts.

All facts are one JSON text under `stylescore.generator`; other programs find title and licence under modelspec's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stylescore.errors import ConfigError, ModelError, memory_limit, quote
from stylescore.generators.kinds import check_network, make_generator
from stylescore.generators.layers import CELL
from stylescore.storage.safetensors_header import TensorEntry, read_header, sort_metadata
from stylescore.storage.texts import is_file, is_folder, parse_json
from stylescore_apply.names import KEY
from stylescore_apply.networks import parse_passes, parse_strength
from stylescore_apply.storage.files import atomic

ENDING = ".safetensors"
VERSION = 1
LORA = "lora"
_LATER: Mapping[str, Any] = {"prompt": "", "passes": 1, "strength": 1.0}
"""Facts that files leave out where they have these values, so that earlier versions read them."""
FLOATS = ("F32", "F16", "BF16")
LORA_HINT = "stylescore apply runs it with torch and its model, stylescore export writes both as an ONNX file"
_HINT = "train it with stylescore train-generator, or download the file again"


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """What a generator's file says of it.

    Attributes:
        network: name of the network.
        options: its widths and numbers of blocks; of a LoRA its rank and timestep.
        style: name of the style.
        trigger: prompt of the style in training.
        base: name of the diffusion model that taught it; a LoRA is one of this model.
        size: short side in pixels of the pictures it was trained on, which decides how large strokes are.
        noise_channels: of the noise field, 0 for a network without noise.
        noise_scale: pixels that a cell of the noise field spans on each axis.
        multiple: sides of pictures are padded to multiples of so many pixels, inside the network.
        licence: of the file.
        prompt: of a LoRA, the prompt under which its model is evaluated.
        passes: how often it asks to be applied, each time to its own last picture.
        strength: weight that it asks for its picture, where that is mixed with the photo.
        training: record of the training, for people to read.
        version: of this format.
    """

    network: str
    options: Mapping[str, int] = field(default_factory=dict)
    style: str
    trigger: str = ""
    base: str = ""
    size: int = 0
    noise_channels: int = 0
    noise_scale: int = CELL
    multiple: int = CELL
    licence: str = ""
    prompt: str = ""
    passes: int = 1
    strength: float = 1.0
    training: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def is_lora(self) -> bool:
        """Whether the generator is a diffusion model with a LoRA, which its file holds."""
        return self.network == LORA


def save_generator(path: Path, module: nn.Module, facts: GeneratorFacts, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a generator, whole or not at all; the same weights and facts give the same bytes.

    Raises:
        OutputError: the file cannot be written.
    """
    write_generator(path, module.state_dict(), facts, dtype=dtype)


def write_generator(
    path: Path, state: Mapping[str, Tensor], facts: GeneratorFacts, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a generator from its state dict, see `save_generator`."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    data = sort_metadata(save(tensors, _metadata(facts)))
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def read_facts(path: Path) -> GeneratorFacts:
    """Return what a generator's file says of it, without loading its weights.

    Raises:
        ModelError: there is no such file, or it is not a generator that this version can use.
    """
    header = read_header(path, error=ModelError)
    text = header.metadata.get(KEY)
    if text is None:
        raise ModelError(f"{str(path)!r} is not a generator: its metadata have no {KEY!r}", hint=_HINT)
    try:
        return parse_table(parse_json(text))
    except (ConfigError, ValueError, TypeError) as reason:
        raise ModelError(f"the generator {str(path)!r} cannot be used: {reason}", hint=_HINT) from reason


def load_generator(path: str | Path) -> tuple[nn.Module, GeneratorFacts]:
    """Return a generator in float32 on the CPU, ready to be applied, and what its file says of it.

    The module is called as `module(photo, noise)`: photos [n, 3, h, w] in [0, 1], standard normal noise
    [n, noise_channels, ceil(h / 8), ceil(w / 8)], and returns pictures in [0, 1] of the photos' size.

    Raises:
        ModelError: there is no such file, or it is not a generator that this version can use.
    """
    path = Path(path)
    facts = read_facts(path)
    if facts.is_lora:
        raise ModelError(f"the generator {str(path)!r} is a LoRA of the model {facts.base!r}", hint=LORA_HINT)
    with memory_limit("loading the generator"):
        module = make_generator(facts.network, facts.options, facts.noise_channels)
        _check_tensors(path, read_header(path, error=ModelError).tensors, module.state_dict())
        tensors = load_file(path)
        _require_finite(path, tensors)
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return module.eval().requires_grad_(False), facts


def find_generator(path: Path) -> Path | None:
    """Return the file of a generator: the path itself, or the only generator in the folder that it is.

    `None` if the path is neither; whether the generator can be used is not checked.
    """
    if is_folder(path):
        found = [file for file in sorted(path.glob(f"*{ENDING}")) if _has_facts(file)]
        return found[0] if len(found) == 1 else None
    return path if path.suffix.lower() == ENDING and is_file(path) and _has_facts(path) else None


def require_generator(path: Path) -> Path:
    """Return the file of a generator, see `find_generator`.

    Raises:
        ModelError: there is none, or a folder has several.
    """
    found = find_generator(path)
    if found is None and is_folder(path):
        raise ModelError(f"the folder {str(path)!r} does not hold exactly one generator", hint="name its file")
    if found is None:
        read_facts(path)  # says what is wrong
        raise ModelError(f"the name of a generator's file must end in {ENDING}, got {str(path)!r}", hint="rename it")
    return found


def _has_facts(path: Path) -> bool:
    try:
        return not path.name.startswith(".") and KEY in read_header(path, error=ModelError).metadata
    except ModelError:
        return False


def facts_metadata(facts: GeneratorFacts) -> dict[str, str]:
    """Return the entries of a file's metadata that hold a generator's facts."""
    table = {name: value for name, value in asdict(facts).items() if value != _LATER.get(name)}
    licence = {"modelspec.license": facts.licence} if facts.licence else {}
    return {KEY: json.dumps(table, sort_keys=True), "format": "pt", **licence}


def _metadata(facts: GeneratorFacts) -> dict[str, str]:
    """Return the file's metadata; dates are left out, so that the same training writes the same bytes."""
    return {
        **facts_metadata(facts),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"stylescore-{facts.network}",
        "modelspec.implementation": "stylescore",
        "modelspec.title": facts.style,
    }


def parse_table(table: object) -> GeneratorFacts:
    """Return the facts in a parsed JSON text, the metadata of a generator's file.

    Raises:
        ValueError, TypeError, ConfigError: one is missing, unknown, of the wrong type or out of range.
    """
    if not isinstance(table, Mapping):
        raise TypeError(f"its {KEY!r} is not a JSON object")
    if table.get("version") != VERSION:
        raise ValueError(f"its format has the version {quote(table.get('version'))}, this program reads {VERSION}")
    kinds = {"options": Mapping, "training": Mapping}
    numbers = ("size", "noise_channels", "noise_scale", "multiple", "version")
    known = {
        entry.name: kinds.get(entry.name, int if entry.name in numbers else str) for entry in fields(GeneratorFacts)
    }
    for name in table:
        if name not in known:
            raise ValueError(f"it has the unknown fact {quote(name)}")
    passes = {"passes": parse_passes(table.get("passes", 1)), "strength": parse_strength(table.get("strength", 1))}
    for name, kind in known.items():
        value = table.get(name, _LATER.get(name))
        if name not in passes and (not isinstance(value, kind) or isinstance(value, bool)):
            raise TypeError(f"its {name!r} is {quote(value)}")
    facts = GeneratorFacts(**{**table, **passes})
    check_network(facts.network, facts.options, facts.noise_channels)
    if facts.is_lora and facts.noise_channels == 0:
        raise ValueError("it is a LoRA without noise channels")
    _check_geometry(facts)
    return facts


def _check_geometry(facts: GeneratorFacts) -> None:
    if (facts.noise_scale, facts.multiple) != (CELL, CELL):
        raise ValueError(f"its noise_scale and multiple are {facts.noise_scale} and {facts.multiple}, not {CELL}")


def _check_tensors(path: Path, entries: Mapping[str, TensorEntry], state: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` unless a file has exactly a network's tensors."""
    wanted = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in (*wanted, *entries):
        if name not in entries or name not in wanted:
            what = "lacks" if name in wanted else "has the unknown tensor"
            raise ModelError(f"the generator {str(path)!r} {what} {quote(name)}", hint=_HINT)
        entry = entries[name]
        if entry.shape != wanted[name] or entry.dtype not in FLOATS:
            raise ModelError(
                f"the generator {str(path)!r} has {quote(name)} of shape {list(entry.shape)} in {entry.dtype}, its "
                f"network needs {list(wanted[name])} in {', '.join(FLOATS)}",
                hint=_HINT,
            )


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"the generator {str(path)!r} holds NaN or infinity in {quote(name)}", hint=_HINT)
