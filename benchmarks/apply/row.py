"""Measures one network at one size and prints a JSON line; a process of its own, so that the memory is its own."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.memory import peak_memory_mib
from stylescore_apply.networks import OnnxNetwork
from stylescore_apply.stylizing import Pixels, Settings, stylize, tile_side, to_pixels

SLOWEST_REPEATED = 3.0
"""Seconds; what takes longer is measured once, after the first run."""


def photo_of(side: str) -> Pixels:
    """Return a random photo of a size, "512" or "4000x3000"."""
    width, _, height = side.partition("x")
    shape = (int(height or width), int(width), 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ours(path: Path, threads: int) -> tuple[Callable[[Pixels], object], OnnxNetwork]:
    """Return what stylizes a photo with an exported generator."""
    network = OnnxNetwork(path, threads=threads)
    return lambda photo: stylize(network, photo, Settings()), network


def theirs(path: Path, threads: int) -> Callable[[Pixels], object]:
    """Return what stylizes a photo with the network for 26 styles, whole, as it has no tiles."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    style = np.eye(26, dtype=np.float32)[0]

    def compute(photo: Pixels) -> object:
        values = np.moveaxis(photo, -1, 0)[None].astype(np.float32) / np.float32(255)
        (picture,) = session.run(None, {"image": values, "style_weights": style})
        return to_pixels(picture[0])

    return compute


def main() -> None:
    """Measure and print."""
    path, side, threads, repeats = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    photo, tile = photo_of(side), None
    if path.stem == "multistyle26":
        compute = theirs(path, threads)
    else:
        compute, network = ours(path, threads)
        tile = tile_side(network.facts, *photo.shape[:2], Settings())
    times: list[float] = []
    processor: list[float] = []
    while len(times) < repeats + 1 and not (len(times) > 1 and times[-1] > SLOWEST_REPEATED):
        start, used = time.perf_counter(), time.process_time()
        compute(photo)
        times.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    later = times[1:]
    row = {
        "size": f"{photo.shape[1]}x{photo.shape[0]}",
        "tile": tile,
        "first_s": round(times[0], 3),
        "median_s": round(statistics.median(later), 3),
        "fastest_s": round(min(later), 3),
        "pictures_per_second": round(1 / statistics.median(later), 2),
        "fastest_processor_s": round(min(processor[1:]), 3),
        "peak_mib": peak_memory_mib(),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
