"""Stylizes photos with the small networks that come with stylescore-apply, at the photos' own size.

Photos are in rows, networks in columns. Run it with `python examples/small_networks.py photo.jpg --styles van-gogh`;
without styles it takes all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stylescore.images import contact_sheet
from stylescore_apply import OnnxNetwork, Settings, stylize
from stylescore_apply.names import small_networks

HERE = Path(__file__).parent
PHOTOS = tuple(HERE / f"{name}.jpg" for name in ("coffee", "chelsea", "astronaut"))


def main(
    photos: Sequence[Path] = PHOTOS,
    target: Path = Path("small_networks.png"),
    cell: int = 400,
    styles: Sequence[str] | None = None,
) -> Image.Image:
    """Write a sheet to `target`."""
    known = small_networks()
    networks = [OnnxNetwork(known[style]) for style in styles or known]
    rows = []
    for path in photos:
        photo = Image.open(path).convert("RGB")
        made = (stylize(network, np.asarray(photo), Settings()) for network in networks)
        rows.append([photo, *map(Image.fromarray, made)])
    sheet = contact_sheet(rows, ["photo", *(network.facts.style for network in networks)], cell=cell)
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="*", default=list(PHOTOS))
    parser.add_argument("--target", type=Path, default=Path("small_networks.png"))
    parser.add_argument("--cell", type=int, default=400, help="side in pixels of a picture on the sheet")
    parser.add_argument("--styles", nargs="+", choices=list(small_networks()), help="default: all")
    arguments = parser.parse_args()
    main(arguments.photos, arguments.target, arguments.cell, arguments.styles)
