"""Networks of a few operations, whose pictures can be computed by hand, as ONNX files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stylescore_apply.networks import KEY

BOX = 5
NOISE_FACTOR = 0.1
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
FACTS: dict[str, Any] = {
    "version": 1,
    "network": "box",
    "style": "blur",
    "noise_channels": 2,
    "noise_scale": 8,
    "multiple": 8,
    "context": BOX // 2,
    "bytes_per_pixel": 1000,
    "size": 64,
    "licence": "CC0-1.0",
}


def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def noise_nodes(channels: int) -> tuple[list[Any], list[Any]]:
    """Return nodes that enlarge the noise to the photo's size, and add its mean over channels, scaled, to `blurred`."""
    nodes = [
        helper.make_node("ReduceMean", ["noise", "axis_1"], ["cell"], keepdims=1),
        helper.make_node("Resize", ["cell", "", "scales"], ["large"], **NEAREST),
        helper.make_node("Shape", ["photo"], ["sides"], start=2),
        helper.make_node("Slice", ["large", "zeros", "sides", "axes"], ["cut"]),
        helper.make_node("Mul", ["cut", "factor"], ["scaled"]),
        helper.make_node("Add", ["blurred", "scaled"], ["sum"]),
    ]
    constants = [
        constant("axis_1", [1], np.int64),
        constant("scales", [1, 1, 8, 8], np.float32),
        constant("zeros", [0, 0], np.int64),
        constant("axes", [2, 3], np.int64),
        constant("factor", NOISE_FACTOR, np.float32),
    ]
    return nodes, constants


def build(facts: dict[str, Any] | None = None, *, whole: bool = False, metadata: bool = True) -> onnx.ModelProto:
    """Return a network that blurs by a box; `whole` also subtracts the mean of the whole picture and adds a half."""
    facts = FACTS | (facts or {})
    kernel = np.zeros((3, 3, BOX, BOX), np.float32)
    kernel[range(3), range(3)] = 1 / BOX**2
    nodes = [helper.make_node("Conv", ["photo", "kernel"], ["blurred"], pads=[BOX // 2] * 4)]
    constants = [
        constant("kernel", kernel, np.float32),
        constant("low", 0, np.float32),
        constant("high", 1, np.float32),
    ]
    last, inputs = "blurred", [helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    if facts["noise_channels"]:
        more, extra = noise_nodes(facts["noise_channels"])
        nodes, constants, last = nodes + more, constants + extra, "sum"
        shape = ["n", facts["noise_channels"], "rows", "columns"]
        inputs.append(helper.make_tensor_value_info("noise", TensorProto.FLOAT, shape))
    if whole:
        nodes += [
            helper.make_node("ReduceMean", [last, "sides_of_all"], ["mean"], keepdims=1),
            helper.make_node("Sub", [last, "mean"], ["centred"]),
            helper.make_node("Add", ["centred", "half"], ["shifted"]),
        ]
        constants += [constant("sides_of_all", [2, 3], np.int64), constant("half", 0.5, np.float32)]
        last = "shifted"
    nodes.append(helper.make_node("Clip", [last, "low", "high"], ["picture"]))
    outputs = [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, "h", "w"])]
    model = helper.make_model(
        helper.make_graph(nodes, "box", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 9
    if metadata:
        helper.set_model_props(model, {KEY: json.dumps(facts)})
    return model


def reference(photo: NDArray[np.uint8], noise: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Return what the network makes of [height, width, 3], computed by sums of shifted copies."""
    values = photo / 255
    height, width = photo.shape[:2]
    padded = np.pad(values, ((BOX // 2, BOX // 2), (BOX // 2, BOX // 2), (0, 0)))
    shifts = [padded[y : y + height, x : x + width] for y in range(BOX) for x in range(BOX)]
    blurred = np.mean(shifts, axis=0)
    if noise is not None:
        large = noise[0].mean(0).repeat(8, 0).repeat(8, 1)[:height, :width]
        blurred = blurred + NOISE_FACTOR * large[..., None]
    return np.clip(blurred, 0, 1)


def picture(width: int = 40, height: int = 24, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
