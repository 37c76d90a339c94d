"""Arranges several pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from stylescore.errors import ConfigError, PictureError
from stylescore.images.sizes import resize

_BACKGROUND = "white"
BEFORE_AFTER_SIDE = 1280
"""Longest side in pixels of each half of a before/after sheet: more is not seen on a screen, and is slow to write."""
_TEXT_COLOUR = "black"
_GAP = 8
_TEXT_SIZE = 14


def flatten_alpha(picture: Image.Image) -> Image.Image:
    """Convert a picture to "RGB", with white behind transparent pixels."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    background = Image.new("RGBA", picture.size, _BACKGROUND)
    return Image.alpha_composite(background, picture.convert("RGBA")).convert("RGB")


def before_after(photo_picture: Image.Image, result: Image.Image) -> Image.Image:
    """Arrange photo and result side by side with a thin gap.

    Args:
        photo_picture: the photo, on the left; the sheet has its height, as far as `BEFORE_AFTER_SIDE` allows.
        result: the stylized picture, on the right, scaled to the same height.

    Returns:
        An "RGB" sheet.
    """
    shrink = min(1.0, BEFORE_AFTER_SIDE / max(photo_picture.size))
    width, height = (max(1, round(shrink * side)) for side in photo_picture.size)
    left, right = resize(flatten_alpha(photo_picture), (width, height)), flatten_alpha(result)
    right = resize(right, (max(1, round(right.width * left.height / right.height)), left.height))
    gap = max(2, left.height // 100)
    sheet = Image.new("RGB", (left.width + gap + right.width, left.height), _BACKGROUND)
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + gap, 0))
    return sheet


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None, *, cell: int = 256
) -> Image.Image:
    """Arrange pictures in a grid.

    Args:
        rows: the pictures, row by row; rows may differ in length.
        labels: one heading for each column, or `None`.
        cell: side in pixels of the square each picture is scaled into, at least 1.

    Returns:
        An "RGB" sheet with white gaps; a row is as high as its highest picture.

    Raises:
        PictureError: there is no picture.
        ConfigError: the number of labels is not the number of columns, or `cell` is below 1.
    """
    columns = max((len(row) for row in rows), default=0)
    _check_grid(columns, labels, cell)
    head = _TEXT_SIZE + _GAP if labels else 0
    step = cell + _GAP
    scaled = [[ImageOps.contain(flatten_alpha(p), (cell, cell), Image.Resampling.LANCZOS) for p in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in scaled]
    sheet = Image.new("RGB", (columns * step + _GAP, sum(heights) + _GAP * (len(rows) + 1) + head), _BACKGROUND)
    _write_labels(sheet, labels or (), step)
    top = head + _GAP
    for row, height in zip(scaled, heights, strict=True):
        for x, picture in enumerate(row):
            left = _GAP + x * step + (cell - picture.width) // 2
            sheet.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + _GAP
    return sheet


def _write_labels(sheet: Image.Image, labels: Sequence[str], step: int) -> None:
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        pen.text((_GAP + column * step, _GAP // 2), label, fill=_TEXT_COLOUR, font=ImageFont.load_default(_TEXT_SIZE))


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
