"""EXIF data that a result takes over from its photo: those about camera, time, place and author."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

Base, IFD = ExifTags.Base, ExifTags.IFD

_KEPT = (
    *(Base.ImageDescription, Base.Make, Base.Model, Base.XResolution, Base.YResolution, Base.ResolutionUnit),
    *(Base.Software, Base.DateTime, Base.Artist, Base.HostComputer, Base.Copyright, Base.Rating, Base.RatingPercent),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
)
"""Tags of the first directory that do not describe how pixels are stored; in TIFF files, most others do."""
_DROPPED = (
    *(Base.MakerNote, Base.ExifInteroperabilityOffset, Base.ExifImageWidth, Base.ExifImageHeight),
    *(Base.ComponentsConfiguration, Base.CompressedBitsPerPixel),
)
"""Tags of the camera's directory that are wrong in another file; a maker note holds offsets, and at times the place."""
_UPRIGHT = 1


def descriptive_exif(image: Image.Image) -> Image.Exif | None:
    """Return the EXIF data of a picture's file that also describe a picture made from it; `None` if there are none."""
    try:
        return _select(image.getexif())
    except Exception:  # PIL raises almost any error for a damaged EXIF block
        return None


def _select(given: Image.Exif) -> Image.Exif | None:
    kept = Image.Exif()
    for tag in _KEPT:
        if tag in given:
            kept[tag] = given[tag]
    for directory, dropped in ((IFD.Exif, _DROPPED), (IFD.GPSInfo, ())):
        entries = {tag: value for tag, value in given.get_ifd(directory).items() if tag not in dropped}
        if entries:
            kept.get_ifd(directory).update(entries)
    try:
        kept.tobytes()
    except Exception:  # a value that PIL reads but cannot write
        return None
    return kept if len(kept.tobytes()) > len(Image.Exif().tobytes()) else None


def has_place(exif: Image.Exif | None) -> bool:
    """Return whether EXIF data say where a picture was taken."""
    return exif is not None and bool(exif.get_ifd(IFD.GPSInfo))


def exif_for(given: Image.Exif | None, size: tuple[int, int], *, keep_location: bool) -> Image.Exif | None:
    """Return EXIF data for an upright picture of this size; without the place, unless it is to be kept."""
    if given is None:
        return None
    exif = Image.Exif()
    for tag, value in given.items():
        if tag not in (IFD.Exif, IFD.GPSInfo):
            exif[tag] = value
    exif[Base.Orientation] = _UPRIGHT
    camera: dict[int, Any] = exif.get_ifd(IFD.Exif)
    camera.update(given.get_ifd(IFD.Exif))
    camera[Base.ExifImageWidth], camera[Base.ExifImageHeight] = size
    if keep_location:
        exif.get_ifd(IFD.GPSInfo).update(given.get_ifd(IFD.GPSInfo))
    return exif
