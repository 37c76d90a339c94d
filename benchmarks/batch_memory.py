"""Memory of a batch of phone photos beside that of one, with a tiny model.

    python -m benchmarks.batch_memory --photos 500

makes JPEG files of 12 megapixels, stylizes one and then all of them in a process each, and prints the largest resident
memory of both. The tiny model with random weights of the tests keeps the time of the networks short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PARITY = Path(__file__).parents[1] / "tests" / "data" / "parity"
SIZE = (4000, 3000)


def write_photos(folder: Path, count: int) -> None:
    """Write different JPEG photos, smooth with grain."""
    grain = np.random.default_rng(0).normal(0, 6, (SIZE[1], SIZE[0], 1))
    base = np.asarray(Image.radial_gradient("L").resize(SIZE).convert("RGB"), dtype=np.float32)
    for number in range(count):
        tint = np.array([number % 7, number % 11, number % 13]) * 6
        pixels = (0.7 * base + tint + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"photo-{number:04d}.jpg", quality=90)


def measure(photos: Path, output: Path, more: list[str]) -> tuple[int, float]:
    """Return the largest resident memory in MiB, and the seconds, of a call that stylizes the photos."""
    words = ["stylize", str(photos), "--model", str(PARITY / "tiny_base"), "--output", str(output), "--quiet"]
    words += ["--style", str(PARITY / "style_lora_kohya.safetensors"), "--size", "64", "--iterations", "1", *more]
    code = (
        "import sys; from benchmarks.memory import peak_memory_mib; from stylescore.cli.main import exit_code;"
        "code = exit_code(sys.argv[1:]); print(peak_memory_mib(), file=sys.stderr); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return int(done.stderr.splitlines()[-1]), time.perf_counter() - began


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--format", default="jpeg")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        write_photos(photos, given.photos)
        first = sorted(photos.iterdir())[0]
        one, _ = measure(first, Path(place) / "one", ["--format", given.format])
        every, seconds = measure(photos, Path(place) / "all", ["--format", given.format])
    print(f"one photo {one} MiB, {given.photos} photos {every} MiB: {every - one:+d} MiB")
    print(f"{seconds / given.photos:.2f} s a photo")


if __name__ == "__main__":
    main()
