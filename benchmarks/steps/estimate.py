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
from stylescore.assembly.stylizer import CODEC_WINDOW
from stylescore.config import presets
from stylescore.config.method import MethodConfig
from stylescore.diffusion.codec import Codec
from stylescore.storage.files import atomic

PUBLISHED = Path(stylescore.__file__).parent / "diagnostics" / "memory.json"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "memory.md"
HEAD = """\
# Memory and time by family, size and setting

What a run of one picture needs in bfloat16, in gigabytes (10^9 bytes) on the card and in 10^12 operations: computed,
not measured. Networks of the real sizes were run on tensors that have a shape and no contents, and every tensor was
counted from when it was made until it was gone. Add about 1 GB for CUDA, the allocator's slack and what a convolution
borrows while it works.

* **denoiser** is what stays on the card: weights, style and fake adapter, the optimiser's moments.
* **iteration** is the most that passes need at once: with all scores in one call, or on the trained pass's way back.
* **ends** is the most the autoencoder needs while it encodes or decodes.
* Text models (T5 among those of sd3 and flux) are on the card only while prompts are read, before the first iteration;
  with `--low-memory` and `--offload` they work on the CPU. The autoencoder takes 0.2 GB, with either only while it
  works, in windows of 512 pixels.
* **at most** is the largest sum of what is there at one time.

`--low-memory` asks scores one at a time and computes blocks twice in the trained pass. `--offload` keeps the weights of
all layers in main memory, which must hold them, and brings each layer's while it works; blocks are computed twice too.
**moved** is what then goes through the link to the card in a whole run, in 10^12 bytes. At 12 GB/s, about what a PCIe
3.0 slot with sixteen lanes reaches, 1 takes 83 s; computing does not wait for it only where it takes longer.

Operations are those of a whole run with the preset `balanced` and with `swift`. Divided by what a machine reaches they
are seconds: `stylescore doctor` times a product of matrices and shows them for the machine it runs on. It takes a half
of that speed for granted on a CPU: on two cores of 308 GFLOP/s iterations of Stable Diffusion 1 reached 196 GFLOP/s
with `balanced`'s passes and 151 with `swift`'s (`benchmarks/results/steps_sd1.json`). On a GPU it takes a quarter; **no
GPU has been measured**. `benchmarks/steps/estimate.py` makes this page and what `stylescore doctor` shows.

| family | size | setting | denoiser | iteration | ends | text models | at most | `balanced` | `swift` | moved |
|---|---|---|---|---|---|---|---|---|---|---|
"""
Setting = Literal["usual", "--low-memory", "--offload"]
SETTINGS: tuple[Setting, ...] = ("usual", "--low-memory", "--offload")
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
    saves, cells = setting != "usual", size // kind.facts.pixels_per_cell
    network = in_bfloat16(kind.make).eval()
    whole, z = held(network), torch.randn(1, kind.facts.latent_channels, cells, cells)
    together = setting != "--low-memory"
    made = fitting(kind, network, z, reference(), together=together, saving=saves, away=setting == "--offload")
    assert made.fake is not None
    fake, adapter = made.fake, [weight for weight in network.parameters() if weight.requires_grad]
    draw = made.objective.schedule.draw(z, z, t=torch.tensor([301]), eps=torch.randn_like(z))

    def trained() -> Tensor:
        return fake.predict(draw.z_t, draw.t)

    @torch.no_grad()
    def asked() -> None:
        scores = made.scores.ahead(draw, made.objective.asks)
        _ = made.objective.direction(draw, scores), scores.edit(draw.z_source_t, draw.t)

    codec = replace(autoencoder(kind), tile=CODEC_WINDOW // kind.facts.pixels_per_cell if saves else None)
    picture = torch.zeros(1, 3, size, size)
    parts = {
        "denoiser": held(network) + sum(2 * weight.numel() * weight.element_size() for weight in adapter),
        "iteration": max(most_bytes(asked), most_bytes(lambda: trained().sum().backward())),
        "ends": max(most_bytes(lambda: codec.encode(picture, None)), most_bytes(lambda: codec.decode(z))),
        "texts": 2 * GB * kind.facts.text_parameters,
        "codec": held(codec.vae),
    }
    forward, way_and_back = operations(trained)
    runs = {preset: passes_of(presets.load(preset)) for preset in RUNS}
    return {
        "family": kind.facts.key,
        "size": size,
        "setting": setting,
        "gb": round(at_most(parts, saves) / GB, 1),
        **{f"{name}_gb": round(value / GB, 4) for name, value in parts.items()},
        "tflop": {name: round((n * forward + k * way_and_back) / 1e12, 1) for name, (n, k) in runs.items()},
        "moved_tb": {
            name: round(TRIPS * k * (whole - held(network)) / 1e12, 2) if setting == "--offload" else 0
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
    saves, moved = row["setting"] != "usual", row["moved_tb"]["balanced"]
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
