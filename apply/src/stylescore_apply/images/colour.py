"""Converts pictures of any mode and colour profile to sRGB, and separates their alpha."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

from stylescore_apply.images.depth import is_deep, to_eight_bits

_COLOUR_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_MODES_WITHOUT_ALPHA = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}


def convert_to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None, list[str]]:
    """Convert a decoded picture to sRGB and separate its alpha.

    Args:
        image: any PIL picture.

    Returns:
        The "RGB" picture, the "L" alpha or `None` if the file has none, and notes for the user.
    """
    alpha = _extract_alpha(image)
    if is_deep(image):
        plain, note = to_eight_bits(image)
        notes = [note] if note else []
    else:
        plain, notes = _drop_alpha(image), []
    picture, problem = _to_srgb(plain, image.info.get("icc_profile"))
    picture.info.clear()  # PIL would write the old profile or colour key into the next PNG
    return picture, alpha, notes + ([problem] if problem else [])


def own_profile(image: Image.Image) -> bytes:
    """Return the colour profile of a picture's file if it is one for RGB that can be read, else nothing."""
    data = image.info.get("icc_profile")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data)) if data and not is_deep(image) else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return b""
    if profile is None or profile.profile.xcolor_space.strip() != "RGB":
        return b""
    has_inverse = ImageCms.isIntentSupported(profile, ImageCms.Intent.PERCEPTUAL, ImageCms.Direction.OUTPUT)
    return bytes(data) if data and has_inverse == 1 else b""  # without an inverse, no colours can be converted to it


def convert_from_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Return an sRGB picture, "RGB" or "RGBA", in the colours of an RGB profile; the same one where that is sRGB.

    Args:
        picture: the picture.
        profile: as `own_profile` returns it.
    """
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(target).lower():
        return picture
    converted = ImageCms.profileToProfile(
        picture.convert("RGB"), ImageCms.createProfile("sRGB"), target, outputMode="RGB"
    )
    assert converted is not None  # only with inPlace=True
    if picture.mode == "RGBA":
        converted.putalpha(picture.getchannel("A"))
    return converted


def _extract_alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    if is_deep(image):
        return Image.fromarray(np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8))
    if image.mode == "La":
        return image.getchannel("a")
    if image.mode == "RGB":
        return _alpha_from_key(image, image.info["transparency"])
    return image.convert("RGBA").getchannel("A")


def _alpha_from_key(image: Image.Image, key: tuple[int, ...]) -> Image.Image:
    """Return the alpha of a transparent colour, the key; PIL reduces 16-bit channels to 8 bits, but not the key."""
    eight_bit = np.array(key) >> 8 if max(key) > 255 else np.array(key)
    return Image.fromarray(np.where((np.asarray(image) == eight_bit).all(-1), 0, 255).astype(np.uint8))


def _drop_alpha(image: Image.Image) -> Image.Image:
    """Return the colours as "L", "RGB" or "CMYK" in the picture's own colour space; "LAB" is converted to sRGB."""
    if image.mode == "LAB":
        return _apply_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if image.mode in {"La", "RGBa"}:
        return _drop_alpha(image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]))
    # Through RGBA, because the transparency of a palette or a colour key changes a direct conversion.
    opaque = image.convert("RGBA") if image.has_transparency_data and image.mode not in _MODES_WITHOUT_ALPHA else image
    return opaque.convert(_MODES_WITHOUT_ALPHA.get(image.mode, "RGB"))


def _to_srgb(plain: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    if not profile:
        return plain.convert("RGB"), None
    try:
        return _profile_to_srgb(plain, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return plain.convert("RGB"), "the embedded colour profile is unreadable and was ignored"


def _profile_to_srgb(plain: Image.Image, source: ImageCms.ImageCmsProfile) -> tuple[Image.Image, str | None]:
    space = source.profile.xcolor_space.strip()
    if space != _COLOUR_SPACES[plain.mode]:
        return plain.convert("RGB"), f"the embedded colour profile is for {space} and was ignored"
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return plain.convert("RGB"), None
    return _apply_profile(plain, source), None


def _apply_profile(plain: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    picture = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    if picture is None:  # only with inPlace=True
        raise ValueError("the colour conversion returned no picture")
    return picture
