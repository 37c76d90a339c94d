"""Estimates memory and time of a run of one picture on a machine, by model family and size."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CPU_EFFICIENCY = 0.5
"""Fraction of the speed in matrix products that whole iterations reach; measured with Stable Diffusion 1."""
_GPU_EFFICIENCY = 0.25
"""The same on other devices: assumed, not measured."""
_CPU_SIDE, _GPU_SIDE = 1024, 8192
"""Sides of the square matrices that are multiplied to measure the speed."""
_REPEATS = 4


@dataclass(frozen=True, kw_only=True)
class Need:
    """Memory and time that one picture needs.

    Attributes:
        family: short name of the model family.
        size: side of a square picture in pixels.
        gigabytes: peak memory on the device in 10^9 bytes, by `--memory`.
        seconds: time of a whole run, by preset.
    """

    family: str
    size: int
    gigabytes: dict[str, float]
    seconds: dict[str, float]


def estimate_needs(device: torch.device, itemsize: int, speed: float) -> list[Need]:
    """Estimate what runs need on a device.

    The numbers are computed, not measured, for bfloat16: from the weights, from all tensors of an iteration and from
    counted operations (`benchmarks/steps/estimate.py`).

    Args:
        device: where runs take place; text encoders can be moved off a GPU, but a CPU has one memory for all parts.
        itemsize: bytes of a number in the networks.
        speed: operations per second that the device reaches in matrix products.
    """
    table = json.loads(Path(__file__).with_name("memory.json").read_text(encoding="utf-8"))
    rows = {(row["family"], row["size"], row["setting"]): row for row in table["rows"]}
    is_cpu = device.type == "cpu"
    settings = [setting for setting in table["settings"] if not (is_cpu and setting == "offload")]
    speed *= _CPU_EFFICIENCY if is_cpu else _GPU_EFFICIENCY
    return [
        Need(
            family=family,
            size=size,
            gigabytes={
                each: round(itemsize / 2 * (row["gb"] if device.type == "cuda" else _memory_of_all_parts(row)), 1)
                for each in settings
                for row in [rows[family, size, each]]
            },
            seconds={preset: 1e12 * count / speed for preset, count in row["tflop"].items()},
        )
        for (family, size, setting), row in rows.items()
        if setting == "normal"
    ]


def _memory_of_all_parts(row: dict[str, Any]) -> float:
    """Return the memory of a run in GB with text encoders and autoencoder on the same device."""
    always = sum(row[f"{part}_gb"] for part in ("denoiser", "texts", "codec"))
    return float(always + max(row["iteration_gb"], row["ends_gb"]))


def measure_matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a product of square matrices, the best of a few repeats."""
    import torch

    side = _CPU_SIDE if device.type == "cpu" else _GPU_SIDE
    factors = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]

    def seconds() -> float:
        start = time.perf_counter()
        float(torch.mm(*factors)[0, 0])  # reading a value waits for the device
        return time.perf_counter() - start

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(_REPEATS))
