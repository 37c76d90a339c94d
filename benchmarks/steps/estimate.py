"""Compute, without a GPU, what memory a run needs: weights, and what the trained pass keeps for its way back.

Usage: ``python -m benchmarks.steps.estimate --publish``

The networks run on tensors that have shapes and no contents, so every family and size can be computed anywhere. Not in
the figures: buffers a pass needs for a moment, the allocator's slack, CUDA itself (together about 1 GB).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stylescore
from benchmarks.steps.networks import BETAS, KINDS, in_bfloat16
from benchmarks.steps.ours import reference, style_of
from stylescore.diffusion.adapters import Adapters, fake_route
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.memory import keep_less
from stylescore.files import atomic
from stylescore.schedule import NoiseSchedule

PUBLISHED = Path(stylescore.__file__).parent / "memory.json"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "memory.md"
HEAD = """\
# Memory by family, size and setting

Gigabytes (10^9 bytes) that a run of one picture needs in bfloat16: computed, not measured. The networks of the real
sizes were run on tensors that have a shape and no contents, and what the trained pass keeps for its way back was
counted, each piece of memory once. Add about 1 GB for CUDA, the allocator's slack and what a pass needs for a moment.
sd3 and flux include T5. `--low-memory` has text models work on the CPU, and the autoencoder on the GPU only while it
works. `benchmarks/steps/estimate.py` makes this page and what `stylescore doctor` shows.

| family | size | setting | denoiser and adapter | text models, autoencoder | kept for the way back | together |
|---|---|---|---|---|---|---|
"""
OTHERS = {"mini": 0.005, "sd1": 0.207, "sd2": 0.424, "sdxl": 0.901, "sd3": 5.665, "flux": 4.97}
"""Parameters of text models and autoencoder, in billions (T5 included in sd3 and flux)."""
GB = 1e9
PLAN = [
    *(("sd1", size) for size in (512, 768, 1024)),
    *(("sd2", size) for size in (512, 768)),
    *(("sdxl", size) for size in (768, 1024)),
    *(("sd3", size) for size in (768, 1024)),
    ("flux", 1024),
]


def kept_bytes(work: Callable[[], Tensor], weights: set[int]) -> int:
    """Return the size of what a call keeps for its way back, each piece of memory once, weights left out."""
    found: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    del result
    return sum(int(storage.nbytes()) for storage in found.values())


def estimate(family: str, size: int, *, low: bool) -> dict[str, Any]:
    """Return gigabytes of one picture's run in bfloat16 at a square size in pixels."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    kind, method = KINDS[family], reference()
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = in_bfloat16(kind.make).requires_grad_(False).eval()
        adapters = Adapters.of(network)
        adapters.add_style(style_of(network), 1.0)
        trained = adapters.add_fake(method.fake.targets, method.fake.rank, method.fake.alpha, [torch.Generator()])
        if low:
            keep_less(adapters)
        backbone = Backbone(network, adapters, kind.prediction(NoiseSchedule(BETAS)), kind.call)
        cells = size // kind.scale
        z_t, words = torch.randn(1, kind.channels, cells, cells), kind.words(1, torch.device("cpu"), 0)
        weights = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
        route = fake_route(1, 1, torch.device("cpu"))
        kept = kept_bytes(lambda: backbone.predict(z_t, torch.tensor([301]), words, route), weights)
        held = sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers()))
    moments = sum(2 * 4 * p.numel() for p in trained)
    others = 0 if low else 2 * OTHERS[family] * GB
    parts = {"denoiser": held + moments, "others": others, "kept": kept}
    return {
        "family": family,
        "size": size,
        "setting": "--low-memory" if low else "usual",
        "gb": round(sum(parts.values()) / GB, 1),
        **{f"{name}_gb": round(value / GB, 4) for name, value in parts.items()},
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Return the documentation's page."""
    parts = ("denoiser_gb", "others_gb", "kept_gb", "gb")
    lines = [
        f"| {row['family']} | {row['size']} | {row['setting']} | " + " | ".join(f"{row[p]:.1f}" for p in parts) + " |"
        for row in rows
    ]
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Compute and print; with --publish, write what `stylescore doctor` shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    rows = []
    for family, size in PLAN:
        rows += [estimate(family, size, low=low) for low in (False, True)]
        print(*(f"{row['family']} {row['size']} {row['setting']}: {row}" for row in rows[-2:]), sep="\n", flush=True)
    if options.publish:
        with atomic(PUBLISHED) as temporary:
            temporary.write_text(json.dumps({"dtype": "bfloat16", "batch": 1, "rows": rows}, indent=1) + "\n", "utf-8")
        with atomic(PAGE) as temporary:
            temporary.write_text(page(rows), "utf-8")


if __name__ == "__main__":
    main()
