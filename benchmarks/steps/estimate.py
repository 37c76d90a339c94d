"""Compute, without a GPU, what a run needs: memory while it iterates and while it decodes, and operations.

Usage: ``python -m benchmarks.steps.estimate --publish``

The networks run on tensors that have shapes and no contents, so every family and size can be computed anywhere. Not in
the figures: what a convolution borrows while it works, the allocator's slack, CUDA itself (together about 1 GB).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import stylescore
from benchmarks.steps.living import held, most_bytes
from benchmarks.steps.networks import KINDS, Kind, in_bfloat16
from benchmarks.steps.ours import fitting, reference
from stylescore.assembly.stylizer import CODEC_TILE
from stylescore.config import presets
from stylescore.config.method import MethodConfig
from stylescore.diffusion.codec import Codec
from stylescore_apply.storage.files import atomic

PUBLISHED = Path(stylescore.__file__).parent / "diagnostics" / "memory.json"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "memory.md"
HEAD = """\
# Memory and time by family, size and setting

GPU memory for a run of one picture in bfloat16, in gigabytes (10^9 bytes), and operations, in 10^12: computed, not
measured. Networks of the real sizes were run on tensors that have a shape but no contents, and every tensor was counted
from its creation to its deletion. Add about 1 GB for CUDA, the allocator's overhead and the workspace of convolutions.

* **denoiser** is what stays on the GPU: weights, style LoRA and fake adapter, the optimiser's moments.
* **iteration** is the peak of an iteration's passes: of all scores in one batch, or of the trained pass, backward pass
  included.
* **ends** is the peak of the autoencoder's encoding and decoding.
* **text models** are the text encoders (T5 among those of sd3 and flux). They are on the GPU only while prompts are
  encoded, before the first iteration; with `--memory low` and `--memory offload` they run on the CPU. The autoencoder
  takes 0.2 GB; with either it is on the GPU only while it runs, and works in tiles of 512 pixels.
* **at most** is the peak of the sum.

`--memory low` predicts scores one at a time and recomputes blocks in the backward pass (gradient checkpointing).
`--memory offload` keeps the weights of all layers in CPU memory, which must hold them, and moves each layer's to the
GPU while it runs; blocks are recomputed too. **moved** is the amount of weights moved to the GPU in a whole run, in
10^12 bytes. At 12 GB/s, about what a PCIe 3.0 slot with sixteen lanes reaches, 1 takes 83 s. Computing continues
meanwhile, so that only the time beyond that of computing is lost.

Operations are those of a whole run with the preset `balanced` and with `swift`. Divided by the operations per second
that a machine reaches, they give seconds: `stylescore doctor` measures a product of matrices and shows these times. It
assumes that a CPU reaches half of that speed: on two cores of 308 GFLOP/s, iterations of Stable Diffusion 1
reached 196 GFLOP/s with `balanced`'s passes and 151 with `swift`'s (`benchmarks/results/steps_sd1.json`). For a GPU it
assumes a quarter; **no GPU has been measured**. `benchmarks/steps/estimate.py` makes this page and the figures of
`stylescore doctor`.

| family | size | `--memory` | denoiser | iteration | ends | text models | at most | `balanced` | `swift` | moved |
|---|---|---|---|---|---|---|---|---|---|---|
"""
Setting = Literal["normal", "low", "offload"]
SETTINGS: tuple[Setting, ...] = ("normal", "low", "offload")
TRIPS = 3
"""How often a layer's weights travel in an iteration: without gradient, with it, and once more on the way back."""
GB = 1e9
RUNS = ("balanced", "swift")
PLAN = [
    *(("sd1", size) for size in (512, 768, 1024)),
    *(("sd2", size) for size in (512, 768)),
    *(("sdxl", size) for size in (768, 1024)),
    *(("sd3", size) for size in (768, 1024)),
    ("flux", 1024),
]


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


def estimate(family: str, size: int, setting: Setting) -> dict[str, Any]:
    """Return gigabytes and operations of one picture's run in bfloat16 at a square size in pixels."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        return counted(KINDS[family], size, setting)


def counted(kind: Kind, size: int, setting: Setting) -> dict[str, Any]:
    """Return the same, from networks on whatever tensors are made here."""
    saves, cells = setting != "normal", size // kind.facts.pixels_per_cell
    network = in_bfloat16(kind.make).eval()
    whole, z = held(network), torch.randn(1, kind.facts.latent_channels, cells, cells)
    together = setting != "low"
    made = fitting(kind, network, z, reference(), together=together, saving=saves, away=setting == "offload")
    assert made.fake is not None
    fake = made.fake
    draw = made.objective.schedule.draw(z, z, t=torch.tensor([301]), eps=torch.randn_like(z))

    def trained() -> Tensor:
        return fake.predict(draw.z_t, draw.t)

    @torch.no_grad()
    def predicted() -> None:
        eps = made.scores.predict(draw, made.objective.needs)
        made.objective.direction(draw, eps)

    codec = replace(autoencoder(kind), tile=CODEC_TILE // kind.facts.pixels_per_cell if saves else None)
    picture = torch.zeros(1, 3, size, size)
    parts = {
        "denoiser": held(network) + sum(3 * weight.numel() * weight.element_size() for weight in fake.parameters),
        "iteration": max(most_bytes(predicted), most_bytes(lambda: trained().sum().backward())),
        "ends": max(most_bytes(lambda: codec.encode(picture, None)), most_bytes(lambda: codec.decode(z))),
        "texts": 2 * GB * kind.facts.text_parameters,
        "codec": held(codec.vae),
    }
    forward, forward_backward = operations(trained)
    runs = {preset: passes_of(presets.load(preset)) for preset in RUNS}
    return {
        "family": kind.facts.key,
        "size": size,
        "setting": setting,
        "gb": round(at_most(parts, saves) / GB, 1),
        **{f"{name}_gb": round(value / GB, 4) for name, value in parts.items()},
        "tflop": {name: round((n * forward + k * forward_backward) / 1e12, 1) for name, (n, k) in runs.items()},
        "moved_tb": {
            name: round(TRIPS * k * (whole - held(network)) / 1e12, 2) if setting == "offload" else 0
            for name, (_, k) in runs.items()
        },
    }


def at_most(parts: dict[str, float], saves: bool) -> float:
    """Return the most that is on a card at one time."""
    codec, texts = parts["codec"], parts["texts"]
    while_texts, while_iterating = (0, 0) if saves else (codec + texts, codec)
    return parts["denoiser"] + max(while_texts, while_iterating + parts["iteration"], codec + parts["ends"])


def autoencoder(kind: Kind) -> Codec:
    """Return the autoencoder that all large families have, but for the channels of a latent."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    widths = (128, 256, 512, 512)
    down, up = ("DownEncoderBlock2D",) * len(widths), ("UpDecoderBlock2D",) * len(widths)
    vae = in_bfloat16(lambda: AutoencoderKL(3, 3, down, up, widths, 2, latent_channels=kind.facts.latent_channels))
    return Codec(vae.requires_grad_(False).eval())


def page(rows: list[dict[str, Any]]) -> str:
    """Return the documentation's page."""
    return HEAD + "".join(f"| {' | '.join(cells(row))} |\n" for row in rows)


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the page's table."""
    saves, moved = row["setting"] != "normal", row["moved_tb"]["balanced"]
    parts = [f"{row[name]:.1f}" for name in ("denoiser_gb", "iteration_gb", "ends_gb")]
    texts, operations = "" if saves else f"{row['texts_gb']:.1f}", [f"{row['tflop'][preset]:,.0f}" for preset in RUNS]
    told = [row["family"], str(row["size"]), row["setting"], *parts, texts, f"{row['gb']:.1f}", *operations]
    return [*told, f"{moved:.1f}" if moved else ""]


def main() -> None:
    """Compute and print; with --publish, write what `stylescore doctor` shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    rows = []
    for family, size in PLAN:
        rows += [estimate(family, size, setting) for setting in SETTINGS]
        print(
            *(f"{row['family']} {row['size']} {row['setting']}: {row}" for row in rows[-len(SETTINGS) :]),
            sep="\n",
            flush=True,
        )
    if options.publish:
        with atomic(PUBLISHED) as temporary:
            table = {"dtype": "bfloat16", "batch": 1, "settings": SETTINGS, "rows": rows}
            temporary.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
        with atomic(PAGE) as temporary:
            temporary.write_text(page(rows), "utf-8")


if __name__ == "__main__":
    main()
