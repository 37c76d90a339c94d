"""Networks in ONNX files: what a file says of itself, and its run by onnxruntime."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stylescore_apply.errors import ConfigError, MemoryLimitError, ModelError, is_out_of_memory, memory_limit, quote
from stylescore_apply.names import KEY
from stylescore_apply.storage.file_kinds import HEAD_LENGTH, is_safetensors, kind_of_bytes

VERSION = 1
LARGEST_FILE = 2 * 2**30
MOST_PASSES = 8
CONTEXT_IF_UNKNOWN = 128
"""Pixels around a tile of a network whose layers see the whole picture; no number makes its tiles exact."""

_HINT = "make it with stylescore export, or download it again"
LESS_MEMORY = "what takes less: a smaller --memory-limit, which computes smaller tiles"

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TileRule:
    """How large pictures are computed by a network whose layers see the whole picture.

    Attributes:
        largest: pixels of the largest picture that is computed as a whole.
        side: of the tiles of a larger one in pixels, at most.
        overlap: pixels over which one tile fades into the next.
    """

    largest: int
    side: int
    overlap: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a network's file says of it.

    Attributes:
        network: name of its architecture.
        style: name of its style.
        noise_channels: of its noise field, 0 for a network without noise.
        noise_scale: pixels that a cell of the noise field spans on each axis.
        multiple: tiles begin at multiples of so many pixels.
        context: pixels around a tile on each side that decide its picture; `None` if all of the picture does.
        bytes_per_pixel: memory of its activations for each pixel of a picture.
        tiles: how large pictures are computed; `None` if only memory decides.
        size: short side in pixels of the pictures it was trained on, 0 if unknown.
        passes: how often it asks to be applied, each time to its own last picture.
        strength: weight that it asks for its picture, where that is mixed with the photo.
        licence: of the file.
        version: of this format.
    """

    network: str
    style: str
    noise_channels: int
    noise_scale: int
    multiple: int
    context: int | None
    bytes_per_pixel: int
    tiles: TileRule | None = None
    size: int = 0
    passes: int = 1
    strength: float = 1.0
    licence: str = ""
    version: int = VERSION


class Network(Protocol):
    """What stylizes photos in one forward pass."""

    @property
    def facts(self) -> Facts:
        """What is known of the network."""

    def __call__(self, photo: Array, noise: Array | None) -> Array:
        """Return pictures [n, 3, h, w] in [0, 1] for photos [n, 3, h, w] and noise [n, channels, rows, columns]."""


def refuse_model(model: str | None) -> None:
    """Raise `ConfigError` if a base model was named for a network that needs none."""
    if model is not None:
        raise ConfigError(
            f"--model {model} is for a generator that is a LoRA; a network of its own and an ONNX file need no model",
            hint="leave out --model",
        )


class OnnxNetwork:
    """A network in an ONNX file, run on the CPU.

    Attributes:
        facts: what the file says of it.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        """Load a file.

        Args:
            path: an ONNX file that `stylescore export` wrote.
            threads: number of threads, 0 for one for each core.

        Raises:
            ModelError: there is no such file, or it is not such a network.
        """
        content = _read(path)
        with memory_limit("loading the network", LESS_MEMORY):
            self._session = _start_session(path, content, threads)
        self.facts = _read_facts(path, self._session.get_modelmeta().custom_metadata_map)
        _check_signature(path, self._session, self.facts)

    def __call__(self, photo: Array, noise: Array | None) -> Array:
        """Return pictures [n, 3, h, w] in [0, 1] of the photos' size.

        Raises:
            MemoryLimitError: there is not enough memory.
            ModelError: onnxruntime cannot compute the network.
        """
        inputs = {"photo": photo} if noise is None else {"photo": photo, "noise": noise}
        try:
            (picture,) = self._session.run(["picture"], inputs)
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise _failure(error) from error
        return picture  # type: ignore[no-any-return]


def _failure(error: Exception) -> MemoryLimitError | ModelError:
    """Return what an error of a network's run means."""
    if "Failed to allocate memory" in str(error) or is_out_of_memory(error):
        return MemoryLimitError("not enough memory for stylizing the picture", hint=LESS_MEMORY)
    reason = " ".join(str(error).split())
    return ModelError(f"onnxruntime cannot compute the network: {reason[:300]}", hint=_HINT)


def open_session(path: Path, threads: int) -> Any:
    """Load an ONNX file of any inputs and outputs, for the CPU.

    Raises:
        ModelError: it does not exist, or is no network that onnxruntime can load.
    """
    return _start_session(path, _read(path), threads)


def _read(path: Path) -> bytes:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ModelError(f"the network {str(path)!r} is a device or pipe, not a file", hint=_HINT)
        if facts.st_size > LARGEST_FILE:
            raise ModelError(f"the network {str(path)!r} has more than {LARGEST_FILE:,} bytes", hint=_HINT)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = f"check the spelling; the working folder is {str(Path.cwd())!r}"
        raise ModelError(f"there is no network {str(path)!r}", hint=hint) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"the network {str(path)!r} cannot be read: {reason}", hint="check its permissions") from error


def _start_session(path: Path, content: bytes, threads: int) -> Any:
    """Load the network from its bytes: given a path, onnxruntime would also open other files that it names."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_mem_pattern = False  # made for one size of picture
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise _refusal(path, content, error) from error


def _refusal(path: Path, content: bytes, error: Exception) -> ModelError:
    _refuse_lora(path, content)
    kind = kind_of_bytes(content[:HEAD_LENGTH])
    if kind is not None and kind.what != "an ONNX model":
        return ModelError(f"{str(path)!r} {kind.refuse('a network as ONNX')}", hint=_HINT)
    reason = " ".join(str(error).split())
    return ModelError(f"onnxruntime cannot load {str(path)!r}: {reason[:300]}", hint=_HINT)


def _refuse_lora(path: Path, content: bytes) -> None:
    """Raise `ModelError` if a file is a generator that is a LoRA, which onnxruntime cannot run."""
    facts = generator_in(content)
    if facts.get("network") == "lora":
        raise ModelError(
            f"{str(path)!r} is a LoRA of the model {quote(facts.get('base'))}, which runs with torch and that model",
            hint="export it with stylescore export, or run it by stylescore apply, both after pip install stylescore",
        )


def generator_in(content: bytes) -> Mapping[str, Any]:
    """Return what a safetensors file says of the generator that it holds; nothing for any other content."""
    if not is_safetensors(content[:HEAD_LENGTH]):
        return {}
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"][KEY])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return facts if isinstance(facts, Mapping) else {}


def _read_facts(path: Path, metadata: Mapping[str, str]) -> Facts:
    text = metadata.get(KEY)
    if text is None:
        raise ModelError(f"{str(path)!r} is an ONNX model of another program: its metadata have no {KEY!r}", hint=_HINT)
    try:
        return parse_facts(json.loads(text))
    except (ValueError, TypeError, RecursionError) as reason:
        raise ModelError(f"the network {str(path)!r} cannot be used: {reason}", hint=_HINT) from reason


def parse_facts(table: Any) -> Facts:
    """Return the facts of a parsed JSON text; entries that are for people to read are left out.

    Raises:
        ValueError, TypeError: one is missing, of the wrong type or out of range, or the version is another one.
    """
    if not isinstance(table, Mapping):
        raise TypeError(f"its {KEY!r} is not a JSON object")
    if table.get("version") != VERSION:
        raise ValueError(f"its format has the version {quote(table.get('version'))}, this program reads {VERSION}")
    context = table.get("context")
    return Facts(
        network=_text(table, "network"),
        style=_text(table, "style"),
        noise_channels=_number(table, "noise_channels", 0, 1024),
        noise_scale=_number(table, "noise_scale", 1, 64),
        multiple=_number(table, "multiple", 1, 64),
        context=None if context is None else _number(table, "context", 0, 4096),
        bytes_per_pixel=_number(table, "bytes_per_pixel", 1, 10**6),
        tiles=_tile_rule(table.get("tiles")),
        size=_number(table, "size", 0, 10**6),
        passes=parse_passes(table.get("passes", 1)),
        strength=parse_strength(table.get("strength", 1)),
        licence=_text(table, "licence"),
    )


def parse_passes(value: object) -> int:
    """Return how often a file asks for its network to be applied.

    Raises:
        ValueError: it is no number of passes.
    """
    if type(value) is not int or not 1 <= value <= MOST_PASSES:
        raise ValueError(f"its 'passes' is {quote(value)}, not a whole number between 1 and {MOST_PASSES}")
    return value


def parse_strength(value: object) -> float:
    """Return the weight that a file asks for its network's picture.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 1:
        raise ValueError(f"its 'strength' is {quote(value)}, not a number above 0, at most 1")
    return float(value)


def _tile_rule(table: Any) -> TileRule | None:
    """Return the rule for large pictures, which files of networks that need none do not have."""
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise TypeError(f"its 'tiles' are {quote(table)}, not a JSON object")
    side = _number(table, "side", 64, 2**16)
    return TileRule(
        largest=_number(table, "largest", 1, 2**32), side=side, overlap=_number(table, "overlap", 1, side // 4)
    )


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise TypeError(f"its {name!r} is {quote(value)}, not a text")
    return value


def _number(table: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = table.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"its {name!r} is {quote(value)}, not a whole number between {low} and {high}")
    return value


def _check_signature(path: Path, session: Any, facts: Facts) -> None:
    """Raise `ModelError` unless inputs and outputs are those that the facts promise, of free size."""
    wanted = {"photo": 3} | ({"noise": facts.noise_channels} if facts.noise_channels else {})
    given = {entry.name: entry for entry in session.get_inputs()}
    outputs = {entry.name: entry for entry in session.get_outputs()}
    if set(given) != set(wanted) or set(outputs) != {"picture"}:
        raise ModelError(
            f"the network {str(path)!r} has inputs {sorted(given)} and outputs {sorted(outputs)}, "
            f"not {sorted(wanted)} and ['picture']",
            hint=_HINT,
        )
    for name, channels in (*wanted.items(), ("picture", 3)):
        entry = given.get(name) or outputs[name]
        sides = entry.shape[2:] if len(entry.shape) == 4 else [0]
        if entry.type != "tensor(float)" or entry.shape[1:2] != [channels] or any(isinstance(s, int) for s in sides):
            raise ModelError(
                f"the network {str(path)!r} has {name!r} as {entry.type} {entry.shape}, not as floats "
                f"[n, {channels}, height, width] of any size",
                hint=_HINT,
            )
