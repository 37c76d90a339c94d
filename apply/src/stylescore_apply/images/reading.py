"""Reads photos of any common format as upright sRGB, with what the result takes over from the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import ExifTags, Image

from stylescore_apply.images.alpha import fill_hidden
from stylescore_apply.images.colour import convert_to_srgb, own_profile
from stylescore_apply.images.exif import descriptive_exif
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
_SWAPS_SIDES = (
    *(Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90),
)
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class Photo:
    """A photo, decoded and upright.

    Attributes:
        path: the file it was read from.
        picture: "RGB", in sRGB, upright.
        alpha: "L" of the same size, or `None` if the file had no transparency.
        notes: sentences for the user, such as that only the first frame is used.
        mask: "L" of the same size, white where it is stylized and black where it stays; `None` stylizes all.
        turned: how the file's pixels were turned upright; `None` if they were so already.
        exif: what the file says about camera, time, place and author, without what describes its pixels.
        profile: the file's RGB colour profile; empty if it had none.
    """

    path: Path
    picture: Image.Image
    alpha: Image.Image | None = None
    notes: tuple[str, ...] = ()
    mask: Image.Image | None = None
    turned: Image.Transpose | None = None
    exif: Image.Exif | None = None
    profile: bytes = b""

    @cached_property
    def visible(self) -> Image.Image:
        """The picture as models see it: where it is fully transparent, with the colours around that place."""
        return self.picture if self.alpha is None else fill_hidden(self.picture, self.alpha)


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
        frames = _frames_note(image)
        image.load()
        return photo_of(image, Path(path), frames)


def read_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return width and height of an upright photo from its file's header; its pixels are not decoded.

    Raises:
        PictureError: as for `read_photo`, but damage of the pixels is not noticed.
    """
    with open_picture(path) as image:
        turned, _ = _read_orientation(image)
        return image.size if turned not in _SWAPS_SIDES else image.size[::-1]


def photo_of(image: Image.Image, path: Path, *further: str | None) -> Photo:
    """Return a decoded picture as a photo.

    Args:
        image: any picture of PIL's; where it has EXIF data, they say how it is turned.
        path: what the photo is called.
        further: notes on the file.
    """
    turned, orientation = _read_orientation(image)
    picture, alpha, notes = convert_to_srgb(image)
    if turned is not None:
        picture, alpha = picture.transpose(turned), alpha and alpha.transpose(turned)
    return Photo(
        path,
        picture,
        alpha,
        tuple(note for note in (*further, orientation, *notes) if note),
        turned=turned,
        exif=descriptive_exif(image),
        profile=own_profile(image),
    )


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
