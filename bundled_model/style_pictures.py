"""Stage 6: unpack one style's pictures, with captions, for ``stylescore train-style``.

Usage: ``python -m bundled_model.style_pictures --data DIR --style oil-painting --out DIR``
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from bundled_model.captions import coloured


def unpack(data: Path, style: str, out: Path) -> int:
    """Write a style's pictures as PNG files and their captions to ``captions.csv``; returns how many."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(data.glob(f"style-{style}-[0-9][0-9].npy")):
        shown = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for pixels, photo in zip(np.load(path), shown, strict=True):
            name = f"{len(rows):04d}.png"
            Image.fromarray(pixels).save(out / name)
            rows.append((name, caption(records[photo], len(rows))))
    with (out / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return len(rows)


def caption(record: dict, number: int) -> str:
    """Name the thing in every picture, its colour in every other, and "a photo of" in every third."""
    thing = coloured(record["thing"], record["colour"] if number % 2 else "")
    return f"a photo of {thing}" if number % 3 == 0 else thing


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with rendered pictures")
    parser.add_argument("--style", required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(unpack(arguments.data, arguments.style, arguments.out), "pictures")


if __name__ == "__main__":
    main()
