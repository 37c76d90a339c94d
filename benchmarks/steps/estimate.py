"""Compute, without a GPU, what a run needs: memory for weights and for the trained pass's way back, and operations.

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
from stylescore import presets
from stylescore.config import MethodConfig
from stylescore.diffusion.adapters import Adapters, fake_route
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.memory import keep_less
from stylescore.files import atomic
from stylescore.schedule import NoiseSchedule

PUBLISHED = Path(stylescore.__file__).parent / "memory.json"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "memory.md"
HEAD = """\
# Memory and time by family, size and setting

What a run of one picture needs in bfloat16, in gigabytes (10^9 bytes) on the card and in 10^12 operations: computed,
not measured. The networks of the real sizes were run on tensors that have a shape and no contents; what the trained
pass keeps for its way back was counted, each piece of memory once. Add about 1 GB for CUDA, the allocator's slack and
what a pass needs for a moment. Text models (T5 among those of sd3 and flux) are on the card only while prompts are
read, before the first iteration, so that "at most" counts them or the way back, whichever is larger. `--low-memory` has
them work on the CPU, the autoencoder be on the card only while it works, and blocks be computed twice in the trained
pass.

Operations are those of a whole run with the preset `balanced` and with `swift`. Divided by what a machine reaches they
are seconds: `stylescore doctor` times a product of matrices and shows them for the machine it runs on. It takes a half
of that speed for granted on a CPU: on two cores of 308 GFLOP/s iterations of Stable Diffusion 1 reached 196 GFLOP/s
with `balanced`'s passes and 151 with `swift`'s (`benchmarks/results/steps_sd1.json`). On a GPU it takes a quarter; **no
GPU has been measured**. `benchmarks/steps/estimate.py` makes this page and what `stylescore doctor` shows.

| family | size | setting | denoiser, adapter | text models | autoencoder | way back | at most | `balanced` | `swift` |
|---|---|---|---|---|---|---|---|---|---|
"""
TEXTS = {"mini": 0.001, "sd1": 0.123, "sd2": 0.340, "sdxl": 0.817, "sd3": 5.581, "flux": 4.886}
"""Parameters of text models, in billions (T5 included in sd3 and flux)."""
CODECS = {"mini": 0.004}
"""Parameters of the autoencoder, in billions; that of all large families has 84 million."""
GB = 1e9
RUNS = ("balanced", "swift")
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


def passes_of(method: MethodConfig) -> tuple[int, int]:
    """Return the passes of a picture's whole run of SMS without and with gradient."""
    shared, maps = method.fake.shared, method.relevance.timesteps
    style, fake = (2 if scale != 1 else 1 for scale in (method.guidance_scale, method.fake.guidance_scale))
    each = style + (0 if shared else fake) + (0 if maps else 2)
    return each * method.iterations + 2 * maps, method.iterations


def operations(work: Callable[[], Tensor]) -> tuple[float, float]:
    """Return the operations of a call without gradient, and of one with its way back.

    Attention is spelt out, because the counter knows nothing of the CPU's kernel for it.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            work()
        forward = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            work().sum().backward()
    return forward, counter.get_total_flops()


def estimate(family: str, size: int, *, low: bool) -> dict[str, Any]:
    """Return gigabytes and operations of one picture's run in bfloat16 at a square size in pixels."""
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

        def work() -> Tensor:
            return backbone.predict(z_t, torch.tensor([301]), words, route)

        kept = kept_bytes(work, weights)
        forward, way_and_back = operations(work)
        held = sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers()))
    moments = sum(2 * 4 * p.numel() for p in trained)
    texts, codec = (0 if low else 2 * GB * billions for billions in (TEXTS[family], CODECS.get(family, 0.084)))
    parts = {"denoiser": held + moments, "texts": texts, "codec": codec, "kept": kept}
    most = parts["denoiser"] + codec + max(texts, kept)
    return {
        "family": family,
        "size": size,
        "setting": "--low-memory" if low else "usual",
        "gb": round(most / GB, 1),
        **{f"{name}_gb": round(value / GB, 4) for name, value in parts.items()},
        "tflop": {
            preset: round((plain * forward + trained * way_and_back) / 1e12, 1)
            for preset in RUNS
            for plain, trained in [passes_of(presets.load(preset))]
        },
    }


def page(rows: list[dict[str, Any]]) -> str:
    """Return the documentation's page."""
    parts = ("denoiser_gb", "texts_gb", "codec_gb", "kept_gb", "gb")
    lines = [
        f"| {row['family']} | {row['size']} | {row['setting']} | "
        + " | ".join([*(f"{row[p]:.1f}" for p in parts), *(f"{row['tflop'][preset]:,.0f}" for preset in RUNS)])
        + " |"
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
