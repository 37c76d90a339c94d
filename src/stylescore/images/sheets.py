"""Several pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from stylescore.errors import ConfigError, PictureError
from stylescore.images.sizes import resized

_PAPER = "white"
_INK = "black"
_GAP = 8
_TEXT = 14


def flattened(picture: Image.Image) -> Image.Image:
    """Return the picture as "RGB", laid on white paper where it is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    paper = Image.new("RGBA", picture.size, _PAPER)
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB")


def before_after(photo_picture: Image.Image, result: Image.Image) -> Image.Image:
    """Put photo and result side by side with a thin gap.

    Args:
        photo_picture: the photo, left; its height is the sheet's.
        result: the stylized picture, right, scaled to the photo's height.

    Returns:
        An "RGB" sheet.
    """
    left, right = flattened(photo_picture), flattened(result)
    right = resized(right, (max(1, round(right.width * left.height / right.height)), left.height))
    gap = max(2, left.height // 100)
    sheet = Image.new("RGB", (left.width + gap + right.width, left.height), _PAPER)
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + gap, 0))
    return sheet


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None, *, cell: int = 256
) -> Image.Image:
    """Lay pictures out in a grid.

    Args:
        rows: the pictures, row by row; rows may differ in length.
        labels: one heading per column, or none.
        cell: side in pixels of the square each picture is scaled into, at least 1.

    Returns:
        An "RGB" sheet with white gaps; a row is as high as its highest picture.

    Raises:
        PictureError: there is no picture.
        ConfigError: the number of labels is not the number of columns, or `cell` is below 1.
    """
    columns = max((len(row) for row in rows), default=0)
    _check_grid(columns, labels, cell)
    head = _TEXT + _GAP if labels else 0
    step = cell + _GAP
    fitted = [[ImageOps.contain(flattened(p), (cell, cell), Image.Resampling.LANCZOS) for p in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in fitted]
    sheet = Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP * (len(rows) + 1) + head), _PAPER)
    _write_labels(sheet, labels or (), step)
    top = head + _GAP
    for row, height in zip(fitted, heights, strict=True):
        for x, picture in enumerate(row):
            left = _GAP + x * step + (cell - picture.width) // 2
            sheet.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + _GAP
    return sheet


def _write_labels(sheet: Image.Image, labels: Sequence[str], step: int) -> None:
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        pen.text((_GAP + column * step, _GAP // 2), label, fill=_INK, font=ImageFont.load_default(_TEXT))


def _check_grid(columns: int, labels: Sequence[str] | None, cell: int) -> None:
    if columns == 0:
        raise PictureError("a contact sheet needs at least one picture, got none")
    if cell < 1:
        raise ConfigError(f"cell must be at least 1 pixel, got {cell!r}", hint="256 is a good size")
    if labels is not None and len(labels) != columns:
        raise ConfigError(
            f"a contact sheet needs one label for each of its {columns} columns, got {list(labels)!r}",
            hint="use an empty label for a column without one",
        )
