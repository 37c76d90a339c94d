"""From any mode and colour profile to sRGB, with the alpha kept aside."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from stylescore.images.depth import is_deep, to_eight_bits

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_PLAIN = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}


def split(image: Image.Image) -> tuple[Image.Image, Image.Image | None, list[str]]:
    """Split a decoded picture into sRGB colours and alpha.

    Args:
        image: any PIL picture.

    Returns:
        The "RGB" picture, the "L" alpha or `None` if the file has none, and notes for the user.
    """
    alpha = _alpha(image)
    if is_deep(image):
        plain, note = to_eight_bits(image)
        notes = [note] if note else []
    else:
        plain, notes = _plain(image), []
    picture, problem = _to_srgb(plain, image.info.get("icc_profile"))
    picture.info.clear()  # else PIL would write the old profile or colour key into the next PNG
    return picture, alpha, notes + ([problem] if problem else [])


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    if is_deep(image):
        return Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))
    if image.mode == "La":
        return image.getchannel("a")
    if image.mode == "RGB":
        return _keyed(image, image.info["transparency"])
    return image.convert("RGBA").getchannel("A")


def _keyed(image: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """Return the alpha of a colour key. PIL cuts 16-bit channels to 8 bits but leaves their key as it was."""
    eight_bit = np.array(key) >> 8 if max(key) > 255 else np.array(key)
    return Image.fromarray(np.where((np.asarray(image) == eight_bit).all(-1), 0, 255).astype(np.uint8))


def _plain(image: Image.Image) -> Image.Image:
    """Return the colours as "L", "RGB" or "CMYK", still in the picture's own colour space."""
    if image.mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if image.mode in {"La", "RGBa"}:
        return _plain(image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]))
    # By way of RGBA a palette's or colour key's transparency cannot disturb the conversion.
    opaque = image.convert("RGBA") if image.has_transparency_data and image.mode not in _PLAIN else image
    return opaque.convert(_PLAIN.get(image.mode, "RGB"))


def _to_srgb(plain: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    if not profile:
        return plain.convert("RGB"), None
    try:
        return _managed(plain, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return plain.convert("RGB"), "the embedded colour profile is unreadable and was ignored"


def _managed(plain: Image.Image, source: ImageCms.ImageCmsProfile) -> tuple[Image.Image, str | None]:
    space = source.profile.xcolor_space.strip()
    if space != _SPACES[plain.mode]:
        return plain.convert("RGB"), f"the embedded colour profile is for {space} and was ignored"
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return plain.convert("RGB"), None
    return _transformed(plain, source), None


def _transformed(plain: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    picture = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if picture is None:  # only PIL's in-place form returns nothing
        raise ValueError("no picture came back from the colour transform")
    return picture
