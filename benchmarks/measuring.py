"""Measures times with warm-up, median and quartiles, and describes the machine."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def synchronise() -> None:
    """Wait until a GPU has finished its queue, so that a clock read afterwards is right."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_time(work: Callable[[], object], *, warmup: int = 2, repeats: int = 10) -> dict[str, float]:
    """Measure `work` in milliseconds: median and quartiles over `repeats` calls after `warmup` calls."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        times.append(1000 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(times, n=4)
    return {"median_ms": round(median, 2), "q1_ms": round(low, 2), "q3_ms": round(high, 2), "repeats": repeats}


def describe_machine() -> dict[str, Any]:
    """Return hardware and versions by name."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers", "stylescore")},
    }


def _processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        return names[0] if names else platform.machine()
    return platform.processor() or platform.machine()


def save_results(name: str, figures: dict[str, Any]) -> Path:
    """Write figures and the machine's description to a JSON file, and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(
        json.dumps({"machine": describe_machine(), **figures}, indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    return path
