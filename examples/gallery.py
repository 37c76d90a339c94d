"""Stylizes several photos in several styles, and arranges the results on one sheet.

Run it with `python examples/gallery.py --target gallery.png`; `make gallery` makes the sheets of the documentation
with it. The model is loaded once for each style.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from stylescore import Result, RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.catalog.registry import list_styles
from stylescore.config.presets import preset_for
from stylescore.config.toml import overlay
from stylescore.images import Photo, contact_sheet

HERE = Path(__file__).parent
PHOTOS = tuple(HERE / f"{name}.jpg" for name in ("coffee", "chelsea", "astronaut", "rocket"))
STYLES = tuple(entry.name for entry in list_styles() if entry.bundled)


def stylize_all(photos: Sequence[Photo], style: str, model: str, iterations: int | None) -> Iterator[Image.Image]:
    """Stylize every photo in one style."""
    changes = {} if iterations is None else {"iterations": iterations}
    method = overlay(preset_for(model, None, None, [style]), changes)
    stylizer = Stylizer(RunConfig(styles=(StyleChoice(name=style),), model=model, method=method))
    for photo in photos:
        yield next(event for event in stylizer([photo]) if isinstance(event, Result)).picture


def main(
    paths: Sequence[Path] = PHOTOS,
    styles: Sequence[str] = STYLES,
    target: Path = Path("gallery.png"),
    model: str = "mini",
    iterations: int | None = None,
    cell: int = 256,
) -> Image.Image:
    """Write a sheet to `target`: one row for each photo, with the photo itself and then one column for each style."""
    photos = [read_photo(path) for path in paths]
    columns = [[photo.picture for photo in photos]]
    for style in styles:
        columns.append(list(stylize_all(photos, style, model, iterations)))
        print(f"{style}: {len(photos)} pictures")
    sheet = contact_sheet(list(zip(*columns, strict=True)), ["photo", *styles], cell=cell)
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="*", default=list(PHOTOS))
    parser.add_argument("--styles", nargs="+", default=list(STYLES))
    parser.add_argument("--target", type=Path, default=Path("gallery.png"))
    parser.add_argument("--cell", type=int, default=256, help="side in pixels of a picture on the sheet")
    arguments = parser.parse_args()
    main(arguments.photos, arguments.styles, arguments.target, cell=arguments.cell)
