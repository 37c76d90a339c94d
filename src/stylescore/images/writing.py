"""Writes pictures with metadata, and animations of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylescore.errors import ConfigError, PictureError
from stylescore.images.sheets import before_after as before_after
from stylescore.images.sheets import contact_sheet as contact_sheet
from stylescore.images.sheets import flatten_alpha
from stylescore.images.upsampling import upsample_guided
from stylescore_apply.images.opening import open_picture
from stylescore_apply.images.reading import Photo
from stylescore_apply.storage.files import atomic

_PALETTE_FRAMES = 8
_PALETTE_SIDE = 128
_LAST_FRAME_MS = 2000


def resize_to_photo(result: Image.Image, photo: Photo) -> Image.Image:
    """Resize a result to its photo's size, guided by the photo's edges, and give it the photo's transparency.

    Args:
        result: the stylized picture at the model's size.
        photo: the photo it was made from.

    Returns:
        "RGBA" if the photo had alpha, else "RGB".
    """
    picture = upsample_guided(result.convert("RGB"), photo.picture.convert("RGB"))
    if photo.alpha is None:
        return picture
    return Image.merge("RGBA", (*picture.split(), photo.alpha))


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
    chunks = PngInfo()
    for key, text in (metadata or {}).items():
        _check_text(key, text)
        chunks.add_itxt(key, text)
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=chunks)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts stored in a PNG.

    Args:
        path: a picture file.

    Returns:
        Key to text; empty for other kinds of picture.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    with open_picture(path) as image:
        texts = getattr(image, "text", {})
        return {str(key): str(text) for key, text in texts.items()}


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
