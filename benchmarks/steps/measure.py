"""Measures one setting in a process of its own, so that its peak of memory is its own. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measuring import measure_time, synchronise
from benchmarks.memory import peak_memory_mib
from benchmarks.steps import ours, plain
from benchmarks.steps.networks import KINDS
from stylescore.diffusion.execution.devices import DTYPES, set_memory_format

SPARING = {"method": ours.sparing()}
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "apart": {"together": False},
    "together": {},
    "merged": {"copied": True},
    "sparing": SPARING,
    "sparing-merged": {**SPARING, "copied": True},
    "compiled": {**SPARING, "compiled": "kernels"},
    "graphs": {**SPARING, "compiled": "graphs"},
    "low-memory": {"together": False, "saving": True},
    "offloaded": {"saving": True, "away": True},
}
"""What a mode asks of the package's own loop; "plain" is a loop of its own."""
BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "4090": 165e12}
"""Dense bfloat16 operations a second, by the vendors' data sheets."""


def prepared(options: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], tuple[int, int]]]:
    """Return what takes one iteration, and what tells the passes so far."""
    kind, device = KINDS[options.family], torch.device(options.device)
    torch.manual_seed(0)
    with device:
        network = kind.make()
    network = network.to(device, DTYPES[options.dtype]).eval()
    cells = options.size // kind.facts.pixels_per_cell
    z_source = torch.randn(options.batch, kind.facts.latent_channels, cells, cells, device=device)
    if options.mode == "plain":
        passes = plain.Passes()
        return plain.iteration(kind, network, z_source, passes), lambda: (passes.forward, passes.trained)
    asked = {"method": ours.reference(), **MODES[options.mode]}
    made = ours.fitting(kind, set_memory_format(network, device), z_source, **asked)
    return ours.iteration(made), made.counter.snapshot


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one setting."""
    work, passes = prepared(options)
    start = time.perf_counter()
    work()
    synchronise()
    first = time.perf_counter() - start
    before = passes()
    work()
    each = [now - then for now, then in zip(passes(), before, strict=True)]
    figures = measure_time(work, warmup=1, repeats=options.repeats)
    cuda = options.device.startswith("cuda")
    return {
        "mode": options.mode,
        "family": options.family,
        "size": options.size,
        "dtype": options.dtype,
        "batch": options.batch,
        **figures,
        "first_ms": round(1000 * first, 1),
        "passes_per_picture": {"forward": each[0] / options.batch, "trained": each[1] / options.batch},
        "ms_per_picture": round(figures["median_ms"] / options.batch, 2),
        "peak_memory_mib": torch.cuda.max_memory_allocated() >> 20 if cuda else peak_memory_mib(),
        **({"profile": profiled(work, figures["median_ms"])} if options.profile else {}),
    }


def profiled(work: Callable[[], object], milliseconds: float) -> dict[str, Any]:
    """Return operations of an iteration, how much of the peak they reach, and where a GPU's time goes."""
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    reached = counter.get_total_flops() / milliseconds * 1000
    found: dict[str, Any] = {"gflop": round(counter.get_total_flops() / 1e9), "gflop_per_s": round(reached / 1e9)}
    if not torch.cuda.is_available():
        return found
    name = torch.cuda.get_device_name()
    peaks = [peak for card, peak in BF16_PEAK.items() if card in name]
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        synchronise()
    kernels = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    busy = sum(event.self_device_time_total for event in kernels) / 1000
    return {
        **found,
        "share_of_bf16_peak": round(reached / peaks[0], 3) if peaks else None,
        "idle_share": round(max(0.0, 1 - busy / milliseconds), 3),
        "kernels_ms": {event.key[:80]: round(event.self_device_time_total / 1000, 2) for event in kernels[:10]},
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line of one measurement."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.steps.measure", description=__doc__)
    words.add_argument("--family", choices=list(KINDS), default="sd1")
    words.add_argument("--mode", choices=list(MODES), default="together")
    words.add_argument("--size", type=int, default=512, help="side in pixels")
    words.add_argument("--dtype", choices=list(DTYPES), default="float32")
    words.add_argument("--batch", type=int, default=1)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    words.add_argument("--profile", action="store_true")
    return words


def main() -> None:
    """Measure and print."""
    print(json.dumps(measured(parser().parse_args())))


if __name__ == "__main__":
    main()
