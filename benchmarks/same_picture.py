"""Compare the pictures that every faster or sparer way of computing makes with those of the plainest way.

Usage: ``python -m benchmarks.same_picture``

The plainest way asks each score alone, in float32, with the style beside the network's layers. The same run with
another seed is the measure: what differs less than that, no eye takes for a change of quality.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import save_results
from stylescore.assembly.stylizer import Stylizer
from stylescore.config.execution import ExecutionConfig
from stylescore.config.presets import preset_for
from stylescore.config.run import RunConfig, StyleChoice, with_options
from stylescore.config.toml import overlay
from stylescore.diffusion.execution.devices import best_device
from stylescore.images import Photo, read_photo
from stylescore.method.fit import fit

PLAINEST = "each score alone"
ALL_PASSES = {"guidance_scale": 2.0, "fake": {"shared": False}, "relevance": {"timesteps": 0}}
"""Turns the bundled model's preset into one that asks all scores in every iteration."""


@dataclass(frozen=True)
class Way:
    """A way of computing a run.

    Attributes:
        changes: of the run's configuration.
        batched: whether scores that share a network are evaluated in one call.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    batched: bool = False


WAYS: dict[str, Way] = {
    PLAINEST: Way(),
    "scores in one call": Way(batched=True),
    "style in a merged copy": Way({"style_weights": "merged"}),
    "low memory": Way({"memory": "low"}),
    "offload": Way({"memory": "offload"}, batched=True),
    "compiled": Way({"compile": "on"}, batched=True),
    "bfloat16": Way({"dtype": "bfloat16"}, batched=True),
    "another seed": Way({"seed": 1}),
}
NEED_A_GPU = {"compiled", "offload"}


def made(run: RunConfig, batched: bool, photo: Photo) -> np.ndarray:
    """Return the picture of a run, uint8, [height, width, 3]."""
    stylizer = Stylizer(run)
    fitting = stylizer.start([photo])
    if not batched:
        fitting.scores = replace(fitting.scores, batched=False)
    for _ in fit(fitting):
        pass
    return np.asarray(stylizer.picture(fitting, 0))


def difference(one: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Return how far two pictures are apart: levels of 255 at most and on average, and PSNR in dB, if they differ."""
    apart = one.astype(np.float64) - other
    square = float(np.mean(apart**2))
    return {
        "largest": float(np.abs(apart).max()),
        "mean": round(float(np.abs(apart).mean()), 4),
        "psnr_db": round(10 * math.log10(255**2 / square), 1) if square else None,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table, the worst of all pictures in each column."""
    lines = ["| way | largest difference, levels of 255 | mean difference | PSNR, dB |", "|---|---|---|---|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        largest, mean = (max(row[name] for row in own) for name in ("largest", "mean"))
        ratios = [row["psnr_db"] for row in own if row["psnr_db"] is not None]
        lines.append(f"| {way} | {largest:.0f} | {mean:.2f} | {f'{min(ratios):.1f}' if ratios else 'the same'} |")
    return "\n".join(lines)


def main() -> None:
    """Make all pictures, print the differences, keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_picture", description=__doc__)
    parser.add_argument("--photos", nargs="+", type=Path, default=[Path("examples/coffee.jpg")])
    parser.add_argument("--styles", nargs="+", default=["oil-painting", "stained-glass"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS)[1:], help="left out, all that the device can go")
    parser.add_argument("--device", default=best_device())
    options = parser.parse_args()
    method = overlay(preset_for("mini", None, None), ALL_PASSES)
    usable = [name for name in WAYS if options.device != "cpu" or name not in NEED_A_GPU]
    ways, rows = options.ways or usable[1:], []
    for path in options.photos:
        photo = read_photo(path)
        for style in options.styles:
            execution = ExecutionConfig(device=options.device, dtype="float32", style_weights="adapter")
            run = RunConfig(styles=(StyleChoice(name=style),), method=method, execution=execution)
            plain = made(run, batched=False, photo=photo)
            for name in ways:
                way = WAYS[name]
                found = difference(made(with_options(run, way.changes), way.batched, photo), plain)
                rows.append({"photo": path.name, "style": style, "way": name, **found})
                print(rows[-1], flush=True)
    print(f"\n{table(rows)}\n{save_results('same_picture', {'rows': rows})}")


if __name__ == "__main__":
    main()
