"""Writes pictures as PNG, JPEG, WebP or AVIF."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image, features

from stylescore_apply.errors import ConfigError, OutputError, PictureError, quote
from stylescore_apply.images.colour import convert_from_srgb
from stylescore_apply.storage.files import atomic

Format = Literal["png", "jpeg", "webp", "avif"]
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: Mapping[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".avif": "avif",
}
DEFAULT_QUALITY = 92
LARGEST_SIDE: Mapping[Format, int] = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383, "avif": 65_535}
_FULL_COLOUR_QUALITY = 90
"""From this quality on, JPEG stores colours at the full resolution."""


def format_of(path: Path) -> Format | None:
    """Return the format that a file's ending means, or `None` if it is none that can be written."""
    return ENDINGS.get(path.suffix.lower())


def require_format(chosen: Format) -> None:
    """Raise `ConfigError` unless the installed Pillow can write a format."""
    if chosen in ("webp", "avif") and not features.check(chosen):
        raise ConfigError(
            f"the installed Pillow cannot write {chosen.upper()}", hint="pip install --upgrade pillow, or --format png"
        )


def encode_picture(
    picture: Image.Image,
    chosen: Format,
    *,
    quality: int = DEFAULT_QUALITY,
    exif: Image.Exif | None = None,
    profile: bytes = b"",
) -> bytes:
    """Return the content of a picture's file.

    Args:
        picture: "RGB" or "RGBA", in sRGB. JPEG has no transparency: there, transparent parts become white.
        chosen: the format.
        quality: 1 to 100, not used for PNG.
        exif: EXIF data to store.
        profile: RGB colour profile to convert the colours to, and to store.

    Raises:
        PictureError: it is too large for the format.
    """
    if max(picture.size) > LARGEST_SIDE[chosen]:
        raise PictureError(
            f"{chosen.upper()} allows sides of {LARGEST_SIDE[chosen]:,} pixels, the picture has "
            f"{picture.width} x {picture.height}",
            hint="use --format png",
        )
    buffer = io.BytesIO()
    options = _options(chosen, quality)
    if exif is not None:
        options["exif"] = exif
    if profile:
        options["icc_profile"] = profile
    _prepare(picture, chosen, profile).save(buffer, format=chosen.upper(), **options)
    return buffer.getvalue()


def _options(chosen: Format, quality: int) -> dict[str, Any]:
    match chosen:
        case "png":
            return {"compress_level": 4}
        case "jpeg":
            return {"quality": quality, "subsampling": 0 if quality >= _FULL_COLOUR_QUALITY else 2}
        case "webp":
            return {"quality": quality, "method": 4}
        case "avif":
            return {"quality": quality, "speed": 8}


def _prepare(picture: Image.Image, chosen: Format, profile: bytes) -> Image.Image:
    """Return a picture with the colours and channels that its file has."""
    alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
    colours = picture.convert("RGB")
    if alpha is not None and chosen == "jpeg":
        colours = Image.composite(colours, Image.new("RGB", picture.size, "white"), alpha)
    if profile:
        colours = convert_from_srgb(colours, profile)
    return colours if alpha is None or chosen == "jpeg" else Image.merge("RGBA", (*colours.split(), alpha))


def write_file(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all; its folder is made.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {str(path.parent)!r} cannot be made: {error.strerror or error}", hint="choose another --out"
        ) from error
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def check_quality(quality: int) -> int:
    """Return a quality.

    Raises:
        ConfigError: it is out of range.
    """
    if type(quality) is not int or not 1 <= quality <= 100:
        raise ConfigError(f"quality must be a whole number between 1 and 100, not {quote(quality)}", hint="92 is usual")
    return quality
