"""Stage 1: pack the photos into one array and measure colours for the captions.

Usage: ``python -m bundled_model.prepare --photos DIR --out DIR``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from bundled_model.captions import measure_colour, thing_of
from bundled_model.photos import SIDE, Photo, held_out_mask, load_square, photo_folder, read_list


def describe(photo: Photo, pixels: np.ndarray, held_out: bool) -> dict[str, object]:
    """Return what the later stages need of one photo."""
    return {
        "name": photo.name,
        "folder": photo.folder,
        "thing": thing_of(photo.caption),
        "colour": measure_colour(pixels, photo.folder),
        "held_out": held_out,
    }


def prepare(photos: Path, out: Path) -> None:
    """Write ``photos.npy``, ``photos.json`` and ``held_out.txt`` to ``out``."""
    listed = read_list(photos)
    root = photo_folder(photos)
    held_out = held_out_mask(len(listed))
    out.mkdir(parents=True, exist_ok=True)
    shape = (len(listed), SIDE, SIDE, 3)
    packed = np.lib.format.open_memmap(out / "photos.npy", mode="w+", dtype=np.uint8, shape=shape)
    records = []
    for index, photo in enumerate(listed):
        packed[index] = load_square(root / photo.name)
        records.append(describe(photo, packed[index], bool(held_out[index])))
    packed.flush()
    (out / "photos.json").write_text(json.dumps(records), encoding="utf-8")
    names = [photo.name for photo, held in zip(listed, held_out, strict=True) if held]
    (out / "held_out.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder with photos.csv and photos/")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    prepare(arguments.photos, arguments.out)


if __name__ == "__main__":
    main()
