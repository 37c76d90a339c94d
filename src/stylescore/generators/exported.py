"""Reads an exported generator back as a network of torch, which a training can go on from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylescore.errors import ConfigError, ModelError
from stylescore.generators.export import TOLERANCE, largest_difference, require_extra
from stylescore.generators.files import LORA, GeneratorFacts, parse_table
from stylescore.generators.kinds import make_generator
from stylescore_apply.names import KEY
from stylescore_apply.networks import OnnxNetwork

_HINT = "go on from the generator's own file, from before its export"


def read_exported(path: Path) -> tuple[nn.Module, GeneratorFacts]:
    """Return the generator in an ONNX file, in float32 on the CPU, and what the file says of it.

    Weights are found by their names. Those of norms have none, as the exporter changes their shape: they are taken in
    the order of their use. Then file and network are applied to the same pictures, so that a mistake is noticed.

    Raises:
        ConfigError: the libraries of the extra `export` are not installed.
        ModelError: it is no such file, it holds a LoRA with its model, or the network would make other pictures.
    """
    require_extra("reading an ONNX file back needs")
    import onnx

    network = OnnxNetwork(path)
    if network.facts.network == LORA:
        raise ModelError(f"{str(path)!r} holds a LoRA together with its model", hint=_HINT)
    model = onnx.load_model_from_string(path.read_bytes())
    facts = _facts(path, {entry.key: entry.value for entry in model.metadata_props})
    module = make_generator(facts.network, facts.options, facts.noise_channels).eval().requires_grad_(False)
    module.load_state_dict(_match(path, module.state_dict(), _uses(model.graph)))
    difference = largest_difference(network, module, facts)
    if not difference <= TOLERANCE:  # also if it is NaN
        raise ModelError(
            f"the network {str(path)!r} read back makes pictures that differ by {difference:.2g}, at most "
            f"{TOLERANCE:g} is allowed",
            hint=_HINT,
        )
    return module, facts


def _facts(path: Path, metadata: Mapping[str, str]) -> GeneratorFacts:
    """Return what was known of the generator before its export."""
    table = json.loads(metadata[KEY])
    known = {entry.name for entry in fields(GeneratorFacts)}
    try:
        return parse_table({name: value for name, value in table.items() if name in known})
    except (ConfigError, ValueError, TypeError) as reason:
        raise ModelError(f"the network {str(path)!r} cannot be used: {reason}", hint=_HINT) from reason


def _uses(graph: Any) -> list[tuple[str, Tensor]]:
    """Return the constants that the nodes of a graph use, in float32 and in the nodes' order, with their names.

    A convolution's bias is named after its weight, as the exporter stores equal constants once, under one of the names.
    """
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    stored = {
        entry.name: torch.from_numpy(numpy_helper.to_array(entry).astype(np.float32))
        for entry in graph.initializer
        if entry.data_type in floats
    }
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    found: list[tuple[str, Tensor]] = []
    for node in graph.node:
        names = [name for name in node.input if node.op_type != "Cast" and casts.get(name, name) in stored]
        values = [stored[casts.get(name, name)] for name in names]
        if node.op_type.startswith("Conv") and len(names) == 2:
            names = [names[0], f"{names[0].removesuffix('weight')}bias"]
        found += zip(names, values, strict=True)
    return found


def _match(path: Path, state: Mapping[str, Tensor], uses: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return a network's weights among a file's constants: by name, else the next nameless one of so many numbers."""
    named = dict(uses)
    nameless = [values for name, values in uses if name not in state]
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        values = named.get(name)
        if values is None and name.endswith("bias") and f"{name.removesuffix('bias')}weight" in named:
            values = torch.zeros_like(tensor)  # left out by the exporter
        if values is None:
            index = next((n for n, each in enumerate(nameless) if each.numel() == tensor.numel()), None)
            values = None if index is None else nameless.pop(index)
        if values is None or values.numel() != tensor.numel():
            raise ModelError(f"the network {str(path)!r} lacks the weights {name!r}", hint=_HINT)
        found[name] = values.reshape(tensor.shape)
    return found
