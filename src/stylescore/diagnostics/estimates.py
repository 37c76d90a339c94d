"""What a run of one picture needs, by family and size: memory and time, computed for a machine."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARE_ON_CPU = 0.5
"""The part of a device's speed in matrix products that whole iterations reach; measured with Stable Diffusion 1."""
SHARE_ELSEWHERE = 0.25
"""The same where nothing has been measured."""
SIDE_ON_CPU, SIDE_ELSEWHERE = 1024, 8192
"""Sides of the matrices that are multiplied to measure the speed."""
TRIES = 4


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one picture takes.

    Attributes:
        family: short name of the model's family.
        size: side in pixels of a square picture.
        gigabytes: at most on the device, 10^9 bytes, by how the run is told to save memory; "normal" for not at all.
        seconds: of a whole run, by preset.
    """

    family: str
    size: int
    gigabytes: dict[str, float]
    seconds: dict[str, float]


def needs(device: torch.device, itemsize: int, speed: float) -> list[Need]:
    """Return what runs need on a device.

    The numbers come from weights, from all tensors that an iteration makes and from counted operations
    (`benchmarks/steps/estimate.py`): computed, not measured, in bfloat16.

    Args:
        device: where runs take place; only a card has memory of its own that text models can leave.
        itemsize: bytes of a number in the networks.
        speed: operations a second that the device reaches in matrix products.
    """
    table = json.loads(Path(__file__).with_name("memory.json").read_text(encoding="utf-8"))
    rows = {(row["family"], row["size"], row["setting"]): row for row in table["rows"]}
    cpu = device.type == "cpu"
    settings = [setting for setting in table["settings"] if not (cpu and setting == "offload")]
    reached = (SHARE_ON_CPU if cpu else SHARE_ELSEWHERE) * speed
    return [
        Need(
            family=family,
            size=size,
            gigabytes={
                each: round(itemsize / 2 * (row["gb"] if device.type == "cuda" else in_one_place(row)), 1)
                for each in settings
                for row in [rows[family, size, each]]
            },
            seconds={preset: 1e12 * count / reached for preset, count in row["tflop"].items()},
        )
        for (family, size, setting), row in rows.items()
        if setting == "normal"
    ]


def in_one_place(row: dict[str, Any]) -> float:
    """Return the memory of a run where text models and autoencoder have nowhere else to be."""
    always = sum(row[f"{part}_gb"] for part in ("denoiser", "texts", "codec"))
    return float(always + max(row["iteration_gb"], row["ends_gb"]))


def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of square matrices, the best of a few."""
    import torch

    side = SIDE_ON_CPU if device.type == "cpu" else SIDE_ELSEWHERE
    factors = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]

    def seconds() -> float:
        start = time.perf_counter()
        float(torch.mm(*factors)[0, 0])  # waits for the device
        return time.perf_counter() - start

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(TRIES))
