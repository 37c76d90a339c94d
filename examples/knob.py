"""Compares values of `content`: one row for each style, one column for each value.

Run it with `python examples/knob.py photo.jpg --styles oil-painting --target knob.png`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from stylescore import stylize
from stylescore.images import contact_sheet

PHOTO = Path(__file__).parent / "chelsea.jpg"
STYLES = ("pencil-sketch", "oil-painting", "stained-glass")
CONTENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(
    path: Path = PHOTO,
    styles: Sequence[str] = STYLES,
    contents: Sequence[float] = CONTENTS,
    target: Path = Path("knob.png"),
    **options: Any,
) -> Image.Image:
    """Write a sheet to `target`; further options are passed to `stylize`."""
    rows = [[stylize(path, style, content=content, **options).picture for content in contents] for style in styles]
    sheet = contact_sheet(rows, [f"content {content:g}" for content in contents])
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?", default=PHOTO)
    parser.add_argument("--styles", nargs="+", default=list(STYLES))
    parser.add_argument("--target", type=Path, default=Path("knob.png"))
    arguments = parser.parse_args()
    main(arguments.photo, arguments.styles, target=arguments.target)
