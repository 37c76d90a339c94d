"""Writes a generator as an ONNX file that runs without torch, and refuses to write one that computes something else.

Weights are stored in half precision with a cast to float32 behind each, which onnxruntime computes once when it loads
the file: the network runs in float32, and the file has half the size.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylescore.errors import ConfigError, ModelError
from stylescore.generators.files import GeneratorFacts
from stylescore.generators.layers import CELL, cells
from stylescore_apply.names import KEY
from stylescore_apply.networks import OnnxNetwork, TileRule
from stylescore_apply.storage.files import atomic

OPSET = 20
"""Version of ONNX's operators, the first with GELU as one operator; onnxruntime 1.17 and later run it."""
IR_VERSION = 9
"""Version of ONNX's file format that belongs to the opset."""
TOLERANCE = 1e-3
"""Largest difference of any value of a picture in [0, 1] from torch's, for the same weights."""
LARGEST_ROUNDING = 1 / 255
"""Largest difference that storing the weights in half precision may make: one of 256 levels."""
NEEDED = ("onnx", "onnxscript")
LARGEST_NETWORK = 1_800_000_000
"""Bytes of a network's weights in float32: a protocol buffer holds 2 GiB, with the graph and all constants."""

_SMALLEST_HALF = 64
"""Weights with fewer numbers stay in float32: their size does not matter."""
_EXAMPLE = (2, 136, 200)
_COMPARED = ((1, 64, 64), (1, 75, 101), (2, 128, 96))
"""Batch, height and width of the photos on which file and torch are compared: one is no multiple of a cell."""
_MEASURED_SIDES = (64, 128)
_INNER_SIDE = 64
"""Side of the part of a picture that is compared with and without more context."""
_CONTEXT_TOLERANCE = 1 / 1024
_PIXELS = {"photo": 1, "noise": CELL}
"""Pixels of the photo for one number of an input."""


@dataclass(frozen=True)
class Exported:
    """What was found when a generator was exported.

    Attributes:
        difference: largest difference of the file's pictures from those of torch with the same weights.
        rounding: largest difference that rounding the weights to half precision makes; 0 if they were not.
        context: pixels around a tile that decide its picture; `None` if all of the picture does.
    """

    difference: float
    rounding: float
    context: int | None


def export_onnx(
    path: Path, module: nn.Module, facts: GeneratorFacts, *, half: bool = True, tiles: TileRule | None = None
) -> Exported:
    """Write a generator as an ONNX file, whole or not at all.

    Args:
        path: the file, whose folder exists.
        module: the generator in float32 on the CPU, with the attribute `context`.
        facts: what its file says of it.
        half: whether weights are stored in half precision. Then they are also rounded in `module`.
        tiles: how large pictures are computed by a network that sees the whole picture; `None` leaves it to the memory.

    Raises:
        ConfigError: the libraries of the extra `export` are not installed.
        ModelError: the file computes something else than the module, or half precision is too coarse for its weights.
        OutputError: the file cannot be written.
    """
    require_extra()
    import onnx

    _refuse_large(module)
    rounding = _round(module, facts) if half else 0.0
    model = _trace(module, facts)
    _strip(model)
    table = _facts(module, facts, model, tiles)
    if half:
        _store_in_half(model)
    onnx.helper.set_model_props(model, {KEY: json.dumps(table, sort_keys=True), "licence": facts.licence})
    with atomic(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        return Exported(_compare(temporary, module, facts), rounding, table["context"])


def require_extra(what: str = "export needs") -> None:
    """Raise `ConfigError` unless the libraries of the extra `export` are installed; `what` begins the message."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'stylescore[export]'",
        )


def _refuse_large(module: nn.Module) -> None:
    """Raise `ModelError` if a network is too large for one file."""
    size = 4 * sum(tensor.numel() for tensor in module.state_dict().values())
    if size > LARGEST_NETWORK:
        raise ModelError(
            f"the network has {size / 1e9:.1f} GB in float32, and at most {LARGEST_NETWORK / 1e9:.1f} GB can be "
            "exported to an ONNX file",
            hint="stylescore apply runs it with torch; train --network mobile for a small file",
        )


def round_weights(module: nn.Module) -> None:
    """Round a module's large weights to half precision, in place."""
    for tensor in module.state_dict().values():
        if tensor.numel() >= _SMALLEST_HALF and tensor.dtype == torch.float32:
            tensor.copy_(tensor.half())


def _round(module: nn.Module, facts: GeneratorFacts) -> float:
    """Round a module's weights, and return the largest difference that makes."""
    inputs = [_inputs(*size, facts.noise_channels) for size in _COMPARED]
    before = [_run(module, each) for each in inputs]
    round_weights(module)
    worst = max(_largest(first - _run(module, each)) for first, each in zip(before, inputs, strict=True))
    if not worst <= LARGEST_ROUNDING:  # also if it is NaN
        raise ModelError(
            f"half precision changes pictures by {worst:.2g}, at most {LARGEST_ROUNDING:.2g} is allowed",
            hint="use --precision float32, which makes the file twice as large",
        )
    return worst


def _run(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    with torch.inference_mode():
        picture: Tensor = module(inputs["photo"], inputs.get("noise"))
    return picture


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def _trace(module: nn.Module, facts: GeneratorFacts) -> Any:
    """Return a module as an ONNX model of dynamic batch, height and width."""
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    inputs = _inputs(*_EXAMPLE, facts.noise_channels)
    with _silence():
        model = _convert(module, inputs, free)
    for entry, names in zip([*model.graph.input, *model.graph.output], _AXES, strict=False):
        _name_axes(entry, names)
    if len(inputs) == 1:
        _name_axes(model.graph.output[0], _AXES[2])
    model.ir_version = IR_VERSION
    return model


def _convert(module: nn.Module, inputs: Mapping[str, Tensor], free: Mapping[int, Any]) -> Any:
    """Return what torch's exporter makes of a module.

    Raises:
        ModelError: it cannot express the module in ONNX.
    """
    try:
        traced = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=(free,) * len(inputs), strict=False)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=list(inputs),
            output_names=["picture"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    except Exception as error:  # the exporter's errors have no common base but this
        reason = " ".join(str(error).split())
        raise ModelError(
            f"torch cannot export the network to ONNX: {reason[:300]}",
            hint="stylescore apply runs a LoRA with torch; train --network mobile for a network of its own",
        ) from error
    assert program is not None
    return program.model_proto


_AXES = (("n", "height", "width"), ("n", "rows", "columns"), ("n", "height", "width"))


def _name_axes(entry: Any, names: tuple[str, str, str]) -> None:
    """Name the free axes of an input or output."""
    dimensions = entry.type.tensor_type.shape.dim
    for index, name in zip((0, 2, 3), names, strict=True):
        dimensions[index].Clear()
        dimensions[index].dim_param = name


def _inputs(batch: int, height: int, width: int, noise_channels: int) -> dict[str, Tensor]:
    """Return random inputs of a generator, always the same."""
    rng = torch.Generator().manual_seed(0)
    inputs = {"photo": torch.rand(batch, 3, height, width, generator=rng)}
    if noise_channels:
        inputs["noise"] = torch.randn(batch, noise_channels, cells(height), cells(width), generator=rng)
    return inputs


@contextmanager
def _silence() -> Iterator[None]:
    """Silence the exporter, which warns of its own code."""
    import logging

    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _strip(model: Any) -> None:
    """Remove what the exporter notes about the program: lines of its source, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    del model.functions[:]


def _facts(module: nn.Module, facts: GeneratorFacts, model: Any, tiles: TileRule | None) -> Mapping[str, Any]:
    """Return what the file says of the network: the generator's facts, and what applying it needs to know."""
    largest = _MEASURED_SIDES[-1] ** 2 if tiles is None else tiles.largest
    return {
        **asdict(facts),
        "context": needed_context(module, facts.noise_channels),
        "tiles": None if tiles is None else asdict(tiles),
        "bytes_per_pixel": _bytes_per_pixel(model, facts.noise_channels, largest),
        "opset": OPSET,
    }


def needed_context(module: nn.Module, noise_channels: int) -> int | None:
    """Return how many pixels around a tile decide its picture, in whole cells.

    The layers' reach, `module.context`, is an upper bound: what is far away has little weight. So the smallest context
    is measured with which the inner part of a picture of random colours differs by at most a quarter of a level of 256.
    """
    reach: int | None = getattr(module, "context", None)
    if reach is None:
        return None
    most = CELL * cells(reach)
    side = 2 * most + _INNER_SIDE
    inputs = _inputs(1, side, side, noise_channels)
    whole = _inner(_run(module, inputs), most)
    for context in range(most - CELL, 0, -CELL):
        part = {name: _inner(value, (most - context) // _PIXELS[name]) for name, value in inputs.items()}
        if _largest(_inner(_run(module, part), context) - whole) > _CONTEXT_TOLERANCE:
            return context + CELL
    return CELL


def _inner(picture: Tensor, border: int) -> Tensor:
    return picture[..., border : picture.shape[-2] - border, border : picture.shape[-1] - border]


def _bytes_per_pixel(model: Any, noise_channels: int, pixels: int) -> int:
    """Return how many bytes of activations live at the same time at most, for each of so many pixels of a photo.

    All activations are computed at two small sizes, from which the power of the pixels follows with which each grows:
    1, or 2 in attention. Each lives from the node that writes it to the last one that reads it.
    """
    session, names = _with_all_outputs(model)
    few, many = (_activation_sizes(session, names, noise_channels, side) for side in _MEASURED_SIDES)
    low, high = (side**2 for side in _MEASURED_SIDES)
    sizes = {
        name: many[name] * (many[name] / few[name]) ** _log_ratio(pixels, high, low) for name in names if few[name]
    }
    return max(1, math.ceil(_peak(model.graph.node, sizes) / pixels))


def _log_ratio(pixels: int, high: int, low: int) -> float:
    """Return log(pixels / high) / log(high / low)."""
    return math.log(pixels / high) / math.log(high / low)


def _with_all_outputs(model: Any) -> tuple[Any, list[str]]:
    """Return a session of a model that returns all of its activations, and their names."""
    import onnxruntime

    nodes = model.graph.node
    measured = type(model)()
    measured.CopyFrom(model)
    names = [name for node in nodes for name in node.output if name]
    known = {entry.name for entry in measured.graph.output}
    for name in names:
        if name not in known:
            measured.graph.output.add().name = name
    return onnxruntime.InferenceSession(measured.SerializeToString(), providers=["CPUExecutionProvider"]), names


def _activation_sizes(session: Any, names: list[str], noise_channels: int, side: int) -> dict[str, int]:
    """Return the bytes of all activations for a photo of this side."""
    inputs = _inputs(1, side, side, noise_channels)
    arrays = session.run(names, {name: value.numpy() for name, value in inputs.items()})
    return {name: int(np.asarray(array).nbytes) for name, array in zip(names, arrays, strict=True)}


def _peak(nodes: Any, sizes: Mapping[str, float]) -> float:
    """Return the most bytes that live at the same time when nodes run in their order."""
    last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
    live, most = 0.0, 0.0
    for index, node in enumerate(nodes):
        live += sum(sizes.get(name, 0) for name in node.output)
        most = max(most, live)
        ended = {name for name in (*node.input, *node.output) if last_use.get(name, index) == index}
        live -= sum(sizes.get(name, 0) for name in ended)
    return most


def _store_in_half(model: Any) -> None:
    """Store large weights in half precision, and cast them to float32 in front of all that use them."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALLEST_HALF:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _compare(path: Path, module: nn.Module, facts: GeneratorFacts) -> float:
    """Return the largest difference of a file's pictures from torch's.

    Raises:
        ModelError: it is larger than `TOLERANCE`.
    """
    worst = largest_difference(OnnxNetwork(path), module, facts)
    if not worst <= TOLERANCE:  # also if it is NaN
        raise ModelError(
            f"the exported network differs from torch by {worst:.2g}, at most {TOLERANCE:g} is allowed",
            hint="update torch, onnx and onnxruntime: one of them computes an operator in another way",
        )
    return worst


def largest_difference(network: OnnxNetwork, module: nn.Module, facts: GeneratorFacts) -> float:
    """Return the largest difference of any value of a file's pictures from a module's, of photos of random colours."""
    return max(_difference(network, module, _inputs(*size, facts.noise_channels)) for size in _COMPARED)


def _difference(network: OnnxNetwork, module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    noise = inputs.get("noise")
    picture = network(inputs["photo"].numpy(), None if noise is None else noise.numpy())
    return _largest(torch.from_numpy(picture) - _run(module, inputs))
