"""What a run cost: time, passes through the denoising network and memory, kept in its folder as `cost.json`.

A run that was interrupted goes on counting where it was saved.
"""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from stylescore.method.scores import PassCounter
from stylescore_apply.storage.files import atomic

NAME = "cost.json"
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes to begin the process's peak of resident memory anew."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one picture cost.

    Attributes:
        seconds: of wall-clock time, loading of models left out; a batch's time is divided among its pictures.
        forward_passes: samples that the denoising network evaluated without gradient.
        trained_passes: samples that it evaluated with gradient.
        memory: largest memory in bytes, of the GPU or of the process; `None` where the system does not say.
        device: name of the GPU, or of the processor.
    """

    seconds: float
    forward_passes: float
    trained_passes: float
    memory: int | None
    device: str

    def after(self, before: Cost | None) -> Cost:
        """Return the cost of a run that was interrupted: this part and the one before."""
        if before is None:
            return self
        known = [memory for memory in (self.memory, before.memory) if memory is not None]
        return replace(
            self,
            seconds=self.seconds + before.seconds,
            forward_passes=self.forward_passes + before.forward_passes,
            trained_passes=self.trained_passes + before.trained_passes,
            memory=max(known, default=None),
        )


class Meter:
    """Measures a batch from its beginning."""

    def __init__(self, device: torch.device, counter: PassCounter) -> None:
        self._device, self._counter = device, counter
        _reset_memory(device)
        self._begin, self._passes = time.monotonic(), counter.snapshot()

    def read(self, pictures: int) -> Cost:
        """Return the cost of each of so many pictures up to now."""
        forward, trained = (now - before for now, before in zip(self._counter.snapshot(), self._passes, strict=True))
        return Cost(
            seconds=(time.monotonic() - self._begin) / pictures,
            forward_passes=forward / pictures,
            trained_passes=trained / pictures,
            memory=_peak_memory(self._device),
            device=device_name(self._device),
        )


def write_cost(folder: Path, cost: Cost) -> None:
    """Write what a run cost into its folder."""
    with atomic(folder / NAME) as temporary:
        temporary.write_text(json.dumps(asdict(cost)) + "\n", encoding="utf-8")


def read_cost(folder: Path) -> Cost | None:
    """Return what a run cost, or `None` if its folder does not say."""
    with suppress(OSError, ValueError, TypeError):
        table: Any = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return Cost(**table)
    return None


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, else that of the processor's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def _reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type != "cpu":
        return None
    with suppress(OSError, ValueError):
        (line,) = (row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return None
