"""Timing with warm-up, medians and quartiles, and what machine it was."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def synchronise() -> None:
    """Wait for a GPU's queue, so that a clock read afterwards is honest."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], *, warmup: int = 2, repeats: int = 10) -> dict[str, float]:
    """Return milliseconds of `work`: median and quartiles over `repeats` calls after `warmup` calls."""
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


def machine() -> dict[str, Any]:
    """Describe hardware and versions."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "transformers", "stylescore")},
    }


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        return names[0] if names else platform.machine()
    return platform.processor() or platform.machine()


def peak_memory_mib() -> int:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def keep(name: str, figures: dict[str, Any]) -> Path:
    """Write figures beside the machine's description and return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path
