"""Stage 2: render style pictures from the training photos, in parts that become usable one by one.

Usage: ``python -m bundled_model.render --data DIR``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from bundled_model.styles import RENDERERS

PART = 100


def plan(data: Path, count: int, seed: int) -> list[tuple[str, int, np.ndarray]]:
    """Style, part number and photo rows of every part, the styles taking turns."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    rows = np.array([row for row, record in enumerate(records) if not record["held_out"]])
    parts = []
    for style in RENDERERS:
        rng = np.random.default_rng([seed, *style.encode()])
        chosen = rng.permutation(rows)[:count]
        parts += [(style, number, chosen[PART * number : PART * (number + 1)]) for number in range(-(-count // PART))]
    return sorted(parts, key=lambda part: part[1])


def render_part(data: Path, style: str, number: int, rows: np.ndarray) -> None:
    """Render one part unless it is there already."""
    path = data / f"style-{style}-{number:02d}.npy"
    if path.exists():
        return
    photos = np.load(data / "photos.npy", mmap_mode="r")
    drawn = [RENDERERS[style](photos[row] / 255.0, np.random.default_rng([int(row), number])) for row in rows]
    pixels = np.stack([(255 * np.clip(picture, 0, 1)).round().astype(np.uint8) for picture in drawn])
    path.with_suffix(".json").write_text(json.dumps([int(row) for row in rows]), encoding="utf-8")
    np.save(path.with_suffix(".part.npy"), pixels)
    path.with_suffix(".part.npy").replace(path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    parser.add_argument("--count", type=int, default=700, help="pictures of every style")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for style, number, rows in plan(arguments.data, arguments.count, arguments.seed):
        render_part(arguments.data, style, number, rows)
        print(style, number, flush=True)


if __name__ == "__main__":
    main()
