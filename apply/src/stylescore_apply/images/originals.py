"""Reads a picture together with what its result shall keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stylescore_apply.images.metadata import copy_exif, has_location, rgb_profile
from stylescore_apply.images.opening import open_picture
from stylescore_apply.images.reading import Photo, decode_photo


@dataclass(frozen=True)
class Original:
    """A picture and what its result keeps.

    Attributes:
        photo: decoded and upright, in sRGB.
        exif: EXIF data for the result, or `None`.
        profile: the picture's colour profile if the result can have it, or `None`.
    """

    photo: Photo
    exif: bytes | None = None
    profile: bytes | None = None


def read_original(path: Path, *, location: bool) -> Original:
    """Read a picture of any common format.

    Args:
        path: the picture file.
        location: whether to keep where the photo was taken.

    Raises:
        PictureError: the file cannot be used, see `open_picture`.
    """
    with open_picture(path) as image:
        photo = decode_photo(image, path)
        exif = copy_exif(image, photo.picture.size, location=location)
        profile = rgb_profile(image)
        dropped = not location and has_location(image)
    note = ("the place where it was taken is left out; --keep-location keeps it",) if dropped else ()
    return Original(Photo(path, photo.picture, photo.alpha, (*photo.notes, *note)), exif, profile)
