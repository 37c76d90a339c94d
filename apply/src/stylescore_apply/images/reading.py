"""Reads photos of any common format as upright sRGB."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from stylescore_apply.images.colour import convert_to_srgb
from stylescore_apply.images.opening import open_picture

_TRANSPOSE_OF = {
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
    """A photo, decoded and upright.

    Attributes:
        path: the file it was read from.
        picture: "RGB", in sRGB, upright.
        alpha: "L" of the same size, or `None` if the file had no transparency.
        notes: sentences for the user, such as that only the first frame is used.
    """

    path: Path
    picture: Image.Image
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read a photo of any common format.

    EXIF orientation and embedded colour profiles are applied, grey of more than 8 bits is scaled to 8, transparency is
    separated, and of several frames the first is used.

    Args:
        path: the picture file, at most `opening.MAX_PIXELS` pixels.

    Returns:
        The photo, fully in memory; the file is closed.

    Raises:
        PictureError: the file is missing, a folder, empty, unreadable, not a picture, damaged, too small or
            too large.
    """
    with open_picture(path) as image:
        return decode_photo(image, Path(path))


def decode_photo(image: Image.Image, path: Path) -> Photo:
    """Return the photo of an open picture, as `read_photo` does.

    Args:
        image: what `open_picture` yields; damage makes PIL raise almost any error, which `open_picture` translates.
        path: the file it was opened from.
    """
    frames = _frames_note(image)
    image.load()
    transpose, orientation = _read_orientation(image)
    picture, alpha, notes = convert_to_srgb(image)
    if transpose is not None:
        picture, alpha = picture.transpose(transpose), alpha and alpha.transpose(transpose)
    return Photo(path, picture, alpha, tuple(note for note in (frames, orientation, *notes) if note))


def _frames_note(image: Image.Image) -> str | None:
    count = getattr(image, "n_frames", 1)
    # The other frames of a phone's MPO are brightness maps, those of a PSD are layers: neither is left out.
    if count < 2 or image.format in {"MPO", "PSD"}:
        return None
    if image.format in _ANIMATED:
        return f"animated picture: using the first of {count} frames"
    return f"file with several pictures: using one of {count}"


def _read_orientation(image: Image.Image) -> tuple[Image.Transpose | None, str | None]:
    """Return how to rotate or flip the picture upright, and a note if its EXIF data is unreadable."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # PIL raises almost any error for a damaged EXIF block; the pixels are still usable
        return None, "the EXIF data is unreadable and was ignored"
    return _TRANSPOSE_OF.get(orientation), None
