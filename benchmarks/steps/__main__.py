"""Compare what an iteration costs, side by side with the released code's plan, in one run.

Usage: ``python -m benchmarks.steps --family sd1 --size 512 --dtype float32 bfloat16 --batch 1 8``

The networks have random weights at the real sizes, so nothing is downloaded. Modes:

plain
    the released code's plan in float32 with a batch of one: two networks, three passes of two samples, a training
    step of two samples of which one is thrown away
apart
    the package's loop at the same arithmetic, each score asked alone
together
    the same, all scores without gradient asked in one call
merged
    the same on two networks: a copy with the style merged into its weights answers for the style
sparing
    the fake score unguided and shared with its training step, relevance maps made beforehand
sparing-merged
    the same on two networks
compiled
    sparing through torch.compile, on a GPU only
graphs
    the same with CUDA graphs
low-memory
    each score alone, blocks of the trained pass computed twice
offloaded
    together, blocks computed twice, weights in main memory: on a CPU each is copied, which a GPU has to do too
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from itertools import product
from typing import Any

import torch

from benchmarks.measuring import save_results
from benchmarks.steps.measure import MODES, measured
from benchmarks.steps.measure import parser as measure_parser
from benchmarks.steps.networks import KINDS
from stylescore.diffusion.execution.devices import DTYPES

ITERATIONS = 500
"""Of a run at the reference arithmetic, for pictures an hour."""
HEADINGS = ("family", "size", "dtype", "batch", "mode", "ms/step", "q1..q3", "passes", "MiB", "pictures/h", "vs plain")


def settings(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return all settings asked for; the plain mode exists in float32 and for one picture only."""
    every = product(options.family, options.size, options.dtype, options.batch, options.mode)
    rows = [dict(zip(("family", "size", "dtype", "batch", "mode"), each, strict=True)) for each in every]
    first = [
        {"family": f, "size": s, "dtype": "float32", "batch": 1, "mode": "plain"}
        for f, s in product(options.family, options.size)
        if "plain" in options.mode
    ]
    return first + [row for row in rows if row["mode"] != "plain"]


def to_words(setting: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Return the command line of one setting's measurement."""
    words = [f"--{name}={value}" for name, value in setting.items()]
    return [*words, f"--repeats={options.repeats}", *(["--profile"] if options.profile else [])]


def measure_apart(setting: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Measure one setting in a process of its own; a failure is told and kept."""
    command = [sys.executable, "-m", "benchmarks.steps.measure", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
        return {**setting, "failed": last[0]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure_here(setting: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """Measure one setting in this process, after the memory of the one before is given back; a failure is kept too."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        return measured(measure_parser().parse_args(words))
    except RuntimeError as error:
        return {**setting, "failed": str(error).splitlines()[0]}


def line(figures: dict[str, Any], plain: float | None) -> list[str]:
    """Return one row of the table."""
    told = [str(figures[name]) for name in ("family", "size", "dtype", "batch", "mode")]
    if "failed" in figures:
        return [*told, figures["failed"][:40], "", "", "", "", ""]
    passes = figures["passes_per_picture"]
    each = figures["ms_per_picture"]
    return [
        *told,
        f"{figures['median_ms']:.0f}",
        f"{figures['q1_ms']:.0f}..{figures['q3_ms']:.0f}",
        f"{passes['forward']:g} + {passes['trained']:g}",
        str(figures["peak_memory_mib"]),
        f"{3.6e6 / (ITERATIONS * each):.1f}",
        f"{plain / each:.2f} x" if plain else "",
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return all rows, aligned, each family and size beside its own plain mode."""
    plain = {(r["family"], r["size"]): r["ms_per_picture"] for r in rows if r["mode"] == "plain" and "failed" not in r}
    cells = [list(HEADINGS), *(line(row, plain.get((row["family"], row["size"]))) for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(HEADINGS))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def main() -> None:
    """Measure all settings, print the table, keep the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", choices=list(KINDS), default=["mini"])
    parser.add_argument("--size", nargs="+", type=int, default=[256])
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=["float32"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--mode", nargs="+", choices=list(MODES), default=["plain", "apart", "together", "merged", "sparing"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="count operations; on a GPU also its busiest kernels")
    parser.add_argument("--in-process", action="store_true", help="all settings in one process, on a GPU")
    parser.add_argument("--name", default="steps", help="of the file in benchmarks/results/")
    options = parser.parse_args()
    if options.in_process and not torch.cuda.is_available():
        parser.error("--in-process needs a GPU: only there a setting's peak of memory is its own")
    measure = measure_here if options.in_process else measure_apart
    rows = []
    for setting in settings(options):
        rows.append(measure(setting, to_words(setting, options)))
        print(".", end="", file=sys.stderr, flush=True)
    print(f"\n{table(rows)}\n{save_results(options.name, {'rows': rows})}")


if __name__ == "__main__":
    main()
