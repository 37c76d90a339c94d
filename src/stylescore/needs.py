"""What a run of one picture needs, by family and size: memory and time, computed for a machine."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SHARE = {"cpu": 0.5}
"""The part of a device's speed in matrix products that whole iterations reach; measured with Stable Diffusion 1."""
OTHER_SHARE = 0.25
"""The same where nothing has been measured."""
SIDE = {"cpu": 1024}
OTHER_SIDE = 8192
TRIES = 4


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one picture takes.

    Attributes:
        family: short name of the model's family.
        size: side in pixels of a square picture.
        gigabytes: at most on the device, 10^9 bytes.
        low_memory_gigabytes: the same in a run that saves memory.
        seconds: of a whole run, by preset.
    """

    family: str
    size: int
    gigabytes: float
    low_memory_gigabytes: float
    seconds: dict[str, float]


def needs(device: torch.device, itemsize: int, speed: float) -> list[Need]:
    """Return what runs need on a device.

    The numbers come from weights, from what the trained pass keeps and from counted operations
    (`benchmarks/steps/estimate.py`): computed, not measured, in bfloat16.

    Args:
        device: where runs take place; only a card has memory of its own that text models can leave.
        itemsize: bytes of a number in the networks.
        speed: operations a second that the device reaches in matrix products.
    """
    table = json.loads(Path(__file__).with_name("memory.json").read_text(encoding="utf-8"))
    rows = {(row["family"], row["size"], row["setting"]): row for row in table["rows"]}
    card = device.type == "cuda"
    reached = SHARE.get(device.type, OTHER_SHARE) * speed
    return [
        Need(
            family=family,
            size=size,
            gigabytes=round(itemsize / 2 * (row["gb"] if card else in_one_place(row, row)), 1),
            low_memory_gigabytes=round(itemsize / 2 * (low["gb"] if card else in_one_place(row, low)), 1),
            seconds={preset: 1e12 * count / reached for preset, count in row["tflop"].items()},
        )
        for (family, size, setting), row in rows.items()
        if setting == "usual"
        for low in [rows[family, size, "--low-memory"]]
    ]


def in_one_place(usual: dict[str, Any], row: dict[str, Any]) -> float:
    """Return the memory of a run where text models and autoencoder have nowhere else to be."""
    return float(row["denoiser_gb"] + row["kept_gb"] + usual["texts_gb"] + usual["codec_gb"])


def matrix_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a product of square matrices, the best of a few."""
    import torch

    side = SIDE.get(device.type, OTHER_SIDE)
    factors = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]

    def seconds() -> float:
        start = time.perf_counter()
        float(torch.mm(*factors)[0, 0])  # waits for the device
        return time.perf_counter() - start

    seconds()
    return 2 * side**3 / min(seconds() for _ in range(TRIES))
