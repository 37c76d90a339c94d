"""Makes the thumbnails from which one picks a style in `stylescore studio`: one photo in every bundled style.

`make thumbnails` runs it; the files are part of the package. The model is loaded once for each style.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from stylescore import stylize
from stylescore.catalog.registry import list_styles
from stylescore_apply.storage.files import atomic

HERE = Path(__file__).parent
PHOTO = HERE / "coffee.jpg"
TARGET = HERE.parent / "src" / "stylescore" / "studio" / "static" / "styles"
SIDE = 224
CENTRE = (0.36, 0.5)
"""Where the square is cut from the photo, as fractions of what is cut off."""


def main(
    photo: Path = PHOTO, styles: Sequence[str] = (), target: Path = TARGET, model: str = "mini", **options: object
) -> list[Path]:
    """Write one WebP file for each style and return their paths."""
    with Image.open(photo) as picture:
        side = min(picture.size)
        square = ImageOps.fit(picture.convert("RGB"), (side, side), centering=CENTRE)
    names = styles or [entry.name for entry in list_styles() if entry.bundled]
    return [_write(stylize(square, name, model=model, **options).picture, target / f"{name}.webp") for name in names]


def _write(picture: Image.Image, path: Path) -> Path:
    with atomic(path) as temporary:
        small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.save(temporary, format="WEBP", quality=82, method=6)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--target", type=Path, default=TARGET)
    given = parser.parse_args()
    main(given.photo, target=given.target)
