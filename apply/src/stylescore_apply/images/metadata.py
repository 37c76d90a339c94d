"""What of a picture's metadata its result keeps: EXIF data without what is wrong there, and the colour profile."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, ImageCms

# What describes the photo. The other tags of this table describe how a file stores its pixels.
_KEPT = frozenset(
    {
        *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software),
        *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.HostComputer, ExifTags.Base.Copyright),
        *(ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit, ExifTags.Base.Rating),
        *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor, ExifTags.Base.XPKeywords),
        ExifTags.Base.XPSubject,
    }
)
# A maker's note has offsets that hold in its own file only; the others are positions of further tables.
_DROPPED = frozenset({ExifTags.Base.MakerNote, ExifTags.Base.ExifInteroperabilityOffset})


def copy_exif(image: Image.Image, size: tuple[int, int], *, location: bool) -> bytes | None:
    """Return the EXIF data for the upright result of a picture, or `None` if it has none that can be read.

    Orientation, thumbnail and maker's note are left out, since they would be wrong.

    Args:
        image: the picture, its file still open.
        size: width and height of the result.
        location: whether to keep where the photo was taken (GPS).
    """
    try:
        exif = image.getexif()
        return _copy(exif, size, location) if exif else None
    except Exception:  # PIL raises almost any error for a damaged EXIF block; the pixels are still usable
        return None


def _copy(exif: Image.Exif, size: tuple[int, int], location: bool) -> bytes | None:
    copied = Image.Exif()
    for tag in _KEPT & set(exif):
        copied[tag] = exif[tag]
    details = {tag: value for tag, value in exif.get_ifd(ExifTags.IFD.Exif).items() if tag not in _DROPPED}
    for tag, pixels in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in details:
            details[tag] = pixels
    _add_table(copied, ExifTags.IFD.Exif, details)
    _add_table(copied, ExifTags.IFD.GPSInfo, exif.get_ifd(ExifTags.IFD.GPSInfo) if location else {})
    return copied.tobytes() if copied else None


def _add_table(exif: Image.Exif, tag: int, values: Mapping[int, Any]) -> None:
    if values:
        exif[tag] = dict(values)


def has_location(image: Image.Image) -> bool:
    """Return whether a picture says where it was taken."""
    try:
        return bool(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # as above
        return False


def rgb_profile(image: Image.Image) -> bytes | None:
    """Return a picture's colour profile if a result in RGB can have it too, else `None`."""
    content = image.info.get("icc_profile")
    if not content:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content)).profile
        has_inverse = ImageCms.isIntentSupported(  # only then colours can be converted to it
            ImageCms.ImageCmsProfile(io.BytesIO(content)), ImageCms.Intent.PERCEPTUAL, ImageCms.Direction.OUTPUT
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return bytes(content) if profile.xcolor_space.strip() == "RGB" and has_inverse == 1 else None


def convert_from_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert an sRGB picture to the colours of an RGB profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(target).lower():
        return picture
    converted = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), target, outputMode="RGB")
    return picture if converted is None else converted  # None only with inPlace=True
