"""Writes pictures with metadata, and animations of a run."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, unescape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylescore.config.output import OutputConfig
from stylescore.errors import ConfigError, PictureError
from stylescore.images.sheets import before_after as before_after
from stylescore.images.sheets import contact_sheet as contact_sheet
from stylescore.images.sheets import flatten_alpha
from stylescore.storage.texts import parse_json
from stylescore_apply.images.colour import convert_from_srgb
from stylescore_apply.images.exif import exif_for
from stylescore_apply.images.opening import open_picture
from stylescore_apply.images.reading import Photo
from stylescore_apply.storage.files import atomic

LARGEST_SIDES = {"jpeg": 65_500, "webp": 16_383}
"""Largest sides in pixels that a format has."""
LONGEST_SEGMENT = 65_000
"""Bytes of EXIF data or texts that a JPEG file has room for."""
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:stylescore="urn:stylescore:"><stylescore:texts>{}</stylescore:texts>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_XMP_TEXTS = re.compile(r"<stylescore:texts>(.*?)</stylescore:texts>", re.DOTALL)
_PALETTE_FRAMES = 8
_PALETTE_SIDE = 128
_LAST_FRAME_MS = 2000


def save_png(picture: Image.Image, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write a PNG file, whole or not at all.

    Args:
        picture: the picture to write.
        path: the file; an older one is replaced.
        metadata: texts to store in the file (iTXt, any Unicode). Keys have 1 to 79 printable Latin-1
            characters.

    Raises:
        ConfigError: a key or text cannot be stored in a PNG.
        OutputError: the file cannot be written.
    """
    with atomic(path) as temporary:
        _write_png(picture, temporary, metadata or {})


def save_result(
    picture: Image.Image,
    path: str | os.PathLike[str],
    photo: Photo,
    output: OutputConfig,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the result of a photo in the format that is asked for, whole or not at all.

    It has the photo's colour profile and its EXIF data: upright, with the picture's own size, and without the place
    unless it is to be kept. JPEG has no transparency: there it becomes white.

    Args:
        picture: the picture to write, in sRGB.
        path: the file; an older one is replaced.
        photo: what the picture was made from.
        output: format, quality, and whether the place is kept.
        metadata: texts to store in the file: in PNG as iTXt, else as JSON in its XMP data. Those and EXIF data that a
            JPEG file has no room for are left out.

    Raises:
        PictureError: the format has no pictures of this size.
        ConfigError: a key or text cannot be stored.
        OutputError: the file cannot be written.
    """
    check_side(output, picture.size)
    options: dict[str, Any] = {}
    if photo.profile:
        picture, options["icc_profile"] = convert_from_srgb(picture, photo.profile), photo.profile
    exif = exif_for(photo.exif, picture.size, keep_location=output.keep_location)
    if exif is not None and (output.format != "jpeg" or len(exif.tobytes()) < LONGEST_SEGMENT):
        options["exif"] = exif
    with atomic(path) as temporary:
        if output.format == "png":
            _write_png(picture, temporary, metadata or {}, **options)
        else:
            _write_lossy(picture, temporary, output, metadata or {}, options)


def check_side(output: OutputConfig, size: tuple[int, int]) -> None:
    """Raise `PictureError` if a picture is too large for the format it is to be written in."""
    largest = LARGEST_SIDES.get(output.format)
    if largest is not None and max(size) > largest:
        raise PictureError(
            f"a {output.format} file has at most {largest:,} pixels on a side, not {max(size):,}",
            hint="use --format png",
        )


def _write_png(picture: Image.Image, file: Path, metadata: Mapping[str, str], **options: Any) -> None:
    chunks = PngInfo()
    for key, text in metadata.items():
        _check_text(key, text)
        chunks.add_itxt(key, text)
    # For photos of 12 megapixels zlib's default takes three times as long, for the same length.
    picture.save(file, format="PNG", pnginfo=chunks, compress_type=zlib.Z_RLE, **options)


def _write_lossy(
    picture: Image.Image, file: Path, output: OutputConfig, metadata: Mapping[str, str], options: Mapping[str, Any]
) -> None:
    for key, text in metadata.items():
        _check_text(key, text)
    xmp = _XMP.format(escape(json.dumps(dict(metadata)))).encode()
    own = {"xmp": xmp} if metadata and (output.format != "jpeg" or len(xmp) < LONGEST_SEGMENT) else {}
    if output.format == "jpeg":
        flat = flatten_alpha(picture)
        flat.save(file, format="JPEG", quality=output.quality, subsampling=0, **own, **options)
    else:
        picture.save(file, format="WEBP", quality=output.quality, method=2, **own, **options)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts stored in a picture by this package, and any others of a PNG.

    Args:
        path: a picture file.

    Returns:
        Key to text; empty for other kinds of picture.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with open_picture(path) as image:
        texts = getattr(image, "text", None) or _read_xmp(image.info.get("xmp"))
        return {str(key): str(text) for key, text in texts.items()}


def _read_xmp(data: Any) -> Mapping[str, Any]:
    """Return the texts in XMP data that this package has written; none if there are none."""
    found = _XMP_TEXTS.search(data.decode(errors="replace")) if isinstance(data, bytes) else None
    if found is None:
        return {}
    try:
        texts = parse_json(unescape(found[1]))
    except ValueError:
        return {}
    return texts if isinstance(texts, dict) else {}


def save_gif(frames: Sequence[Image.Image], path: str | os.PathLike[str], milliseconds: int = 80) -> None:
    """Write an endlessly repeated GIF animation, whole or not at all.

    All frames share one palette, so that still parts do not flicker. The last frame is shown for two seconds.

    Args:
        frames: at least one, all of the same size.
        path: the file; an older one is replaced.
        milliseconds: time per frame, 20 to 60000; GIF rounds it to hundredths of a second.

    Raises:
        PictureError: there is no frame or the sizes differ.
        ConfigError: `milliseconds` is out of range.
        OutputError: the file cannot be written.
    """
    _check_frames(frames)
    if not 20 <= milliseconds <= 60_000:
        raise ConfigError(f"milliseconds must be from 20 to 60000, got {milliseconds!r}", hint="80 looks smooth")
    palette = _shared_palette(frames)
    first, *rest = (flatten_alpha(frame).quantize(palette=palette) for frame in frames)
    times = [milliseconds] * len(rest) + [max(milliseconds, _LAST_FRAME_MS)]
    with atomic(path) as temporary:
        # Without this option PIL writes the palette again for every frame.
        options = {"append_images": rest, "duration": times, "palette": bytes(palette.getpalette() or ())}
        first.save(temporary, format="GIF", save_all=True, loop=0, **options)


def _shared_palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Return a palette picture computed from small copies of evenly spaced frames, the last one included."""
    stride = max(1, len(frames) // _PALETTE_FRAMES)
    chosen = [flatten_alpha(frame) for frame in frames[::-1][::stride]]
    for picture in chosen:
        picture.thumbnail((_PALETTE_SIDE, _PALETTE_SIDE))
    width, height = chosen[0].size
    strip = Image.new("RGB", (width, height * len(chosen)))
    for row, picture in enumerate(chosen):
        strip.paste(picture, (0, row * height))
    return strip.quantize(256, method=Image.Quantize.MEDIANCUT)


def _check_frames(frames: Sequence[Image.Image]) -> None:
    sizes = sorted({frame.size for frame in frames})
    if not sizes:
        raise PictureError("an animation needs at least one frame, got none")
    if len(sizes) > 1:
        raise PictureError(f"all frames of an animation must have one size, got {sizes!r}", hint="resize them")


def _check_text(key: str, text: str) -> None:
    is_printable = all(" " <= letter <= "~" or "\xa1" <= letter <= "\xff" for letter in key)
    if not (1 <= len(key) <= 79 and is_printable and key.strip() == key):
        raise ConfigError(
            f"a PNG key must have 1 to 79 printable Latin-1 characters, got {key!r}",
            hint="store long or other texts as the value",
        )
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in text):
        raise ConfigError(
            f"the text under {key!r} must be Unicode without NUL or lone surrogates, got {text[:60]!r}",
            hint="file names that are not UTF-8 contain such characters; store their repr()",
        )
