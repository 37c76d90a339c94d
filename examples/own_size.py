"""Compares two ways to enlarge a picture to its photo's size: Lanczos alone, and guided by the photo's edges.

Run it with `python examples/own_size.py photo.jpg --style flat-illustration --size 192 --target own_size.png`; the
difference is larger the smaller the working size is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from PIL import Image

from stylescore import stylize
from stylescore.images import contact_sheet

PHOTO = Path(__file__).parent / "astronaut.jpg"


def crop(picture: Image.Image, side: int, centre: tuple[float, float]) -> Image.Image:
    """Crop a square around `centre`, given as fractions of width and height, moved inside the picture if needed."""
    side = min(side, *picture.size)
    left, top = (
        min(max(0, round(fraction * length - side / 2)), length - side)
        for fraction, length in zip(centre, picture.size, strict=True)
    )
    return picture.crop((left, top, left + side, top + side))


def main(
    path: Path = PHOTO,
    style: str = "flat-illustration",
    target: Path = Path("own_size.png"),
    side: int = 200,
    centre: tuple[float, float] = (0.75, 0.85),
    cell: int = 400,
    **options: Any,
) -> Image.Image:
    """Write a sheet to `target`: crops of Lanczos, guided and photo; further options are passed to `stylize`."""
    result = stylize(path, style, **options)
    photo = result.photo.picture
    lanczos = result.model_picture.resize(photo.size, Image.Resampling.LANCZOS)
    crops = [crop(picture, side, centre) for picture in (lanczos, result.picture, photo)]
    sheet = contact_sheet([crops], ["Lanczos", "guided by the photo", "photo"], cell=cell)
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?", default=PHOTO)
    parser.add_argument("--style", default="flat-illustration")
    parser.add_argument("--size", type=int, default=192, help="short side in pixels that the model works at")
    parser.add_argument("--target", type=Path, default=Path("own_size.png"))
    parser.add_argument("--side", type=int, default=200, help="side in pixels of the crop")
    parser.add_argument(
        "--centre",
        type=float,
        nargs=2,
        default=(0.75, 0.85),
        help="of the crop, as fractions of the photo's width and height",
    )
    parser.add_argument("--cell", type=int, default=400, help="side in pixels of a crop on the sheet")
    arguments = parser.parse_args()
    main(
        arguments.photo,
        arguments.style,
        arguments.target,
        arguments.side,
        tuple(arguments.centre),
        arguments.cell,
        size=arguments.size,
    )
