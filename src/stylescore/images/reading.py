"""Reading a photo, whatever kind of file it is, as upright sRGB."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from stylescore.images.colour import split
from stylescore.images.opening import opened

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class Photo:
    """A photo as the rest of the package sees it.

    Attributes:
        path: where it came from.
        picture: "RGB", in sRGB, upright.
        alpha: "L" of the same size, or `None` if the file had no transparency.
        notes: sentences worth telling the user, such as that only the first frame is used.
    """

    path: Path
    picture: Image.Image
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read a photo of any common kind.

    EXIF orientation and embedded colour profiles are applied, deep grey is scaled to 8 bits, transparency is
    kept aside, and of several frames the first is used.

    Args:
        path: the picture file, at most `opening.MAX_PIXELS` pixels.

    Returns:
        The photo, fully in memory; the file is closed.

    Raises:
        PictureError: the file is missing, a folder, empty, unreadable, not a picture, damaged, too small or
            too large.
    """
    with opened(path) as image:
        frames = _frames_note(image)
        image.load()
        turn, orientation = _turn(image)
        picture, alpha, notes = split(image)
    told = (note for note in (frames, orientation, *notes) if note)
    return Photo(Path(path), _turned(picture, turn), alpha and _turned(alpha, turn), tuple(told))


def _frames_note(image: Image.Image) -> str | None:
    count = getattr(image, "n_frames", 1)
    # Phones put a brightness map behind the photo (MPO), a PSD counts layers: neither is a choice of ours.
    if count < 2 or image.format in {"MPO", "PSD"}:
        return None
    if image.format in _ANIMATED:
        return f"animated picture: using the first of {count} frames"
    return f"file with several pictures: using one of {count}"


def _turn(image: Image.Image) -> tuple[Image.Transpose | None, str | None]:
    """Return how to turn the picture upright, and a note if its EXIF data does not tell."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL raises nearly anything for a broken EXIF block, and the pixels are still good
        return None, "the EXIF data is unreadable and was ignored"
    return _TURNS.get(orientation), None


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)
