"""Compares a run with the style's generator, in one pass and as its file states.

Photos are in rows, a style's pictures side by side.

Run it with `python examples/one_step.py photo.jpg --styles van-gogh --target one_step.png`; without styles it takes the
bundled ones that have a generator.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stylescore import Stylizer
from stylescore.assembly.one_step import load_one_step
from stylescore.catalog.registry import list_styles
from stylescore.images import contact_sheet
from stylescore_apply import Settings
from stylescore_apply import stylize as apply_network
from stylescore_apply.networks import Facts, Network

HERE = Path(__file__).parent
PHOTOS = tuple(HERE / f"{name}.jpg" for name in ("coffee", "chelsea", "astronaut"))


def find_generators() -> dict[str, Path]:
    """Return the LoRA generators of the bundled styles, by style."""
    found = {entry.name: entry.generator for entry in list_styles() if entry.bundled}
    return {name: path for name, path in found.items() if path is not None and path.suffix == ".safetensors"}


def run_all(photos: Sequence[Path], style: str, **options: Any) -> list[Image.Image]:
    """Stylize every photo with a run."""
    with Stylizer.load(style, **options) as stylizer:
        return [stylizer.stylize(photo, progress=False).picture for photo in photos]


def apply_all(photos: Sequence[Path], network: Network, settings: Settings) -> Iterator[Image.Image]:
    """Stylize every photo with a generator."""
    for photo in photos:
        with Image.open(photo) as opened:
            yield Image.fromarray(apply_network(network, np.asarray(opened.convert("RGB")), settings))


def _as_stated(facts: Facts) -> dict[str, Settings]:
    """Return what the generator's file states, by what it says; nothing if that is one pass."""
    return {} if facts.passes == 1 else {f"{facts.passes} passes at {facts.strength:g}": Settings()}


def main(
    photos: Sequence[Path] = PHOTOS,
    generators: dict[str, Path] | None = None,
    target: Path = Path("one_step.png"),
    cell: int = 256,
    **options: Any,
) -> Image.Image:
    """Write a sheet to `target`; further options are passed to `Stylizer.load`."""
    generators = find_generators() if generators is None else generators
    labels = ["photo"]
    columns = [[Image.open(photo).convert("RGB") for photo in photos]]
    for style, generator in generators.items():
        network = load_one_step(generator)
        ways = {"one pass": Settings(passes=1), **_as_stated(network.facts)}
        columns += [run_all(photos, style, **options), *(list(apply_all(photos, network, ways[way])) for way in ways)]
        labels += [f"{style}, {way}" for way in ("run", *ways)]
    sheet = contact_sheet(list(zip(*columns, strict=True)), labels, cell=cell)
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="*", default=list(PHOTOS))
    parser.add_argument("--styles", nargs="+", choices=list(find_generators()), help="default: all")
    parser.add_argument("--target", type=Path, default=Path("one_step.png"))
    parser.add_argument("--cell", type=int, default=256, help="side in pixels of a picture on the sheet")
    arguments = parser.parse_args()
    known = find_generators()
    chosen = {style: known[style] for style in arguments.styles or known}
    main(arguments.photos, chosen, arguments.target, arguments.cell)
