"""Opening a picture file: everything that can be wrong with it becomes one clear error."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from stylescore.errors import PictureError, StylescoreError

MAX_PIXELS = 150_000_000
"""Largest picture we decode. Phones reach 108 megapixels; PIL itself refuses from 179 on."""
MIN_SIDE = 8
"""Smallest side we accept: one latent cell of the usual encoders."""

# A list of what photos come in, because some of PIL's other readers start programs (EPS: Ghostscript).
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "HEIF", "AVIF"),
    *("BMP", "DIB", "JPEG2000", "PPM", "ICO", "ICNS", "PSD", "QOI"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AGAIN = "copy the file again from its source, or open it in a picture viewer and save it anew"


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a picture whose header has been checked; its pixels are not decoded yet.

    Errors of decoding inside the block are turned into ours as well.

    Args:
        path: the picture file.

    Yields:
        PIL's lazy picture, closed at the end of the block.

    Raises:
        PictureError: the file is missing, a folder, empty, unreadable, not a picture, damaged, too small, or
            has more than `MAX_PIXELS` pixels.
    """
    name = os.fspath(path)
    _check_file(name)
    try:
        # By handle, not by name: for a name PIL maps uncompressed files into memory, and TIFFs taken with the
        # camera held upright come out garbled (Pillow 13.0).
        with _quiet(), Path(name).open("rb") as file, Image.open(file, formats=_formats()) as image:
            _check_size(name, image.size)
            yield image
    except StylescoreError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise _unknown(name) from error
    except PermissionError as error:
        raise _forbidden(name) from error
    except Exception as error:
        # A broken file raises nearly anything in PIL: struct.error, SyntaxError, ValueError, KeyError ...
        reason = str(error) or type(error).__name__
        raise PictureError(f"the picture {name!r} is damaged or incomplete: {reason}", hint=_AGAIN) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PIL's warnings about size and odd metadata; our own limit and notes say what matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        yield


def _formats() -> tuple[str, ...]:
    _register_heif()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _check_file(name: str) -> None:
    try:
        info = Path(name).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        here = f"check the spelling; the working folder is {str(Path.cwd())!r}"
        raise PictureError(f"there is no file {name!r}", hint=here) from error
    except PermissionError as error:
        raise _forbidden(name) from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{name!r} is not a usable path: {error}", hint="check the spelling") from error
    _check_kind(name, info)


def _check_kind(name: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise PictureError(f"{name!r} is a folder, not a picture", hint="name one picture file in it")
    if not stat.S_ISREG(info.st_mode):
        raise PictureError(f"{name!r} is a device or pipe, not a picture file", hint="save it to a file first")
    if info.st_size == 0:
        raise PictureError(f"the file {name!r} is empty (0 bytes)", hint=_AGAIN)


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(name, size)
    if min(size) < MIN_SIDE:
        raise PictureError(
            f"the picture {name!r} is {width} x {height} pixels; each side must have at least {MIN_SIDE}",
            hint="use a larger picture",
        )


def _too_large(name: str, size: tuple[int, int] | None = None) -> PictureError:
    claim = f"{size[0]} x {size[1]} pixels" if size else "too many pixels"
    return PictureError(
        f"the picture {name!r} has {claim}; at most {MAX_PIXELS:,} in all are read",
        hint="scale it down first",
    )


def _forbidden(name: str) -> PictureError:
    return PictureError(
        f"the file {name!r} may not be read by this user", hint="change its permissions or copy it elsewhere"
    )


def _unknown(name: str) -> PictureError:
    if _is_heic(name) and "HEIF" not in Image.OPEN:
        return PictureError(
            f"{name!r} is a HEIC picture, and nothing to read those is installed",
            hint="pip install stylescore[heic], or save the photo as JPEG",
        )
    return PictureError(
        f"{name!r} is not a picture of a known kind", hint="JPEG, PNG, WebP, TIFF, GIF, BMP and AVIF are read"
    )


def _is_heic(name: str) -> bool:
    """Tell by the name or, as phones' photos are often renamed to .jpg, by the first bytes."""
    if Path(name).suffix.lower() in {".heic", ".heif"}:
        return True
    with Path(name).open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS
