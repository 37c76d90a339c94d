"""Measures how the time of a default run of the bundled model is distributed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

CLOCK = time.perf_counter()

import torch  # noqa: E402

from benchmarks.measuring import measure_time, save_results  # noqa: E402
from benchmarks.memory import peak_memory_mib  # noqa: E402
from stylescore.assembly.stylizer import Stylizer  # noqa: E402
from stylescore.config.presets import preset_for  # noqa: E402
from stylescore.config.run import RunConfig, StyleChoice  # noqa: E402
from stylescore.images import read_photo  # noqa: E402
from stylescore.method.fit import Fitting, fake_step, fit, subject_step  # noqa: E402


def measure_parts(fitting: Fitting) -> dict[str, dict[str, float]]:
    """Measure each part of an iteration separately."""
    z, z_source = fitting.subject.draw(fitting.rng)
    t = torch.full((len(z),), 201)
    draw = fitting.objective.schedule.draw(z, z_source, t=t, eps=torch.randn_like(z))
    scores = fitting.scores

    @torch.no_grad()
    def style() -> object:
        return scores["style"](draw.z_t, draw.t)

    @torch.no_grad()
    def fake() -> object:
        return scores["fake"](draw.z_t, draw.t)

    @torch.no_grad()
    def relevance() -> object:
        return scores["edit"](draw.z_source_t, draw.t)

    return {
        "style score": measure_time(style),
        "fake score": measure_time(fake),
        "relevance map": measure_time(relevance),
        "spectrum": measure_time(lambda: fitting.objective.spectrum(z, z_source, t)),
        "picture's step in all": measure_time(lambda: subject_step(fitting, 1e-3)),
        "fake score's training": measure_time(lambda: fake_step(fitting)),
    }


def main() -> None:
    """Run, print and save the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?", default=Path("examples/coffee.jpg"))
    parser.add_argument("--style", default="oil-painting")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--name", default="default_run")
    arguments = parser.parse_args()
    marks = {"imports": time.perf_counter() - CLOCK}

    def mark(name: str, start: float) -> None:
        marks[name] = time.perf_counter() - start

    start = time.perf_counter()
    method = preset_for(arguments.model, None, None, [arguments.style])
    stylizer = Stylizer(RunConfig(styles=(StyleChoice(name=arguments.style),), model=arguments.model, method=method))
    mark("loading", start)
    start = time.perf_counter()
    photo = read_photo(arguments.photo)
    fitting = stylizer.start([photo])
    mark("reading and encoding", start)
    start = time.perf_counter()
    passes = [(iteration.forward_passes, iteration.trained_passes) for iteration in fit(fitting)]
    mark(f"{len(passes)} iterations", start)
    start = time.perf_counter()
    stylizer.result(fitting, 0, photo)
    mark("decoding", start)
    figures: dict[str, Any] = {
        "photo": str(arguments.photo),
        "model": arguments.model,
        "size": list(stylizer.working_size(photo)),
        "seconds": {name: round(value, 2) for name, value in marks.items()},
        "passes_per_iteration": {"forward": passes[-1][0], "trained": passes[-1][1]},
        "iteration_parts": measure_parts(fitting),
        "peak_memory_mib": peak_memory_mib(),
    }
    for name, value in figures["seconds"].items():
        print(f"{name:<24} {value:7.2f} s")
    for name, value in figures["iteration_parts"].items():
        print(f"{name:<24} {value['median_ms']:7.1f} ms  ({value['q1_ms']:.1f} to {value['q3_ms']:.1f})")
    print(f"{'peak memory':<24} {figures['peak_memory_mib']:7d} MiB")
    print(save_results(arguments.name, figures))


if __name__ == "__main__":
    main()
