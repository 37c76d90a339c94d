"""Opens picture files; every fault of a file becomes a `PictureError`."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from stylescore_apply.errors import PictureError, StylescoreError, is_out_of_memory
from stylescore_apply.storage.file_kinds import RAW, file_kind

MAX_PIXELS = 150_000_000
"""Largest number of pixels that is decoded. Phones reach 108 megapixels; PIL itself refuses from 179 on."""
LONGEST_TEXT = 64 * 2**20
"""Largest text or colour profile of a PNG file in bytes; Pillow's own limit of 1 MiB is too small for some programs."""
MIN_SIDE = 8
"""Smallest side in pixels: one latent cell of the usual autoencoders."""

# Only formats of photos: some of PIL's other readers start programs (EPS starts Ghostscript).
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "HEIF", "AVIF"),
    *("BMP", "DIB", "JPEG2000", "PPM", "ICO", "ICNS", "PSD", "QOI"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_RAW_SUFFIXES = (".dng", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".cr2", ".pef", ".3fr", ".iiq", ".srw", ".erf", ".mos")
_DNG_VERSION = 50706  # the tag that only Adobe's raw format has
_MAYBE_PICTURES = ("a picture", "a text file")  # PPM has a form that is text
_USE_FORMATS = "use JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF"
_COPY_AGAIN = "copy the file again from its source, or open it in a picture viewer and save it again"


@contextmanager
def open_picture(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open a picture and check its header; its pixels are not decoded yet.

    Decoding errors inside the `with` block become a `PictureError` too.

    Args:
        path: the picture file.

    Yields:
        PIL's picture, closed at the end of the block.

    Raises:
        PictureError: the file is missing, a folder, empty, unreadable, not a picture, damaged, too small, or
            has more than `MAX_PIXELS` pixels.
    """
    if not isinstance(path, str | os.PathLike):
        raise PictureError(f"a photo's path must be a text, not {type(path).__name__}", hint="read_photo('photo.jpg')")
    name = os.fspath(path)
    check_file(name)
    try:
        # By handle, not by name: given a name, PIL maps uncompressed files into memory and garbles TIFFs with a
        # rotated orientation (Pillow 13.0).
        with (
            _silence_warnings(),
            _allow_long_texts(),
            Path(name).open("rb") as file,
            Image.open(file, formats=_formats()) as image,
        ):
            _refuse_raw(name, image)
            _check_size(name, image.size)
            yield image
    except StylescoreError:
        raise
    except Image.DecompressionBombError as error:
        raise _size_error(name) from error
    except UnidentifiedImageError as error:
        raise _format_error(name) from error
    except PermissionError as error:
        raise _permission_error(name) from error
    except Exception as error:
        # A damaged file makes PIL raise almost any error: struct.error, SyntaxError, ValueError, KeyError ...
        raise _damage_error(name, error) from error


@contextmanager
def _silence_warnings() -> Iterator[None]:
    """Silence PIL's warnings about size and metadata; this package has its own limit and notes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        yield


@contextmanager
def _allow_long_texts() -> Iterator[None]:
    """Let PNG files have texts and colour profiles of several megabytes, as programs write that store their graphs."""
    before = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    PngImagePlugin.MAX_TEXT_CHUNK = max(before[0], LONGEST_TEXT)
    PngImagePlugin.MAX_TEXT_MEMORY = max(before[1], 2 * LONGEST_TEXT)
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


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


def check_file(name: str) -> None:
    """Raise `PictureError` for a path at which there is no file that can be read, or an empty one."""
    try:
        info = Path(name).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = f"check the spelling; the working folder is {str(Path.cwd())!r}"
        raise PictureError(f"there is no file {name!r}", hint=hint) from error
    except PermissionError as error:
        raise _permission_error(name) from error
    except (OSError, ValueError) as error:
        raise PictureError(f"{name!r} is not a usable path: {error}", hint="check the spelling") from error
    _check_kind(name, info)


def _check_kind(name: str, info: os.stat_result) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise PictureError(f"{name!r} is a folder, not a picture", hint="name one picture file in it")
    if not stat.S_ISREG(info.st_mode):
        raise PictureError(f"{name!r} is a device or pipe, not a picture file", hint="save it to a file first")
    if info.st_size == 0:
        raise PictureError(f"the file {name!r} is empty (0 bytes)", hint=_COPY_AGAIN)


def _refuse_raw(name: str, image: Image.Image) -> None:
    """Raise `PictureError` for a raw file in TIFF's form: the picture that can be read in it is a thumbnail."""
    is_raw = Path(name).suffix.lower() in _RAW_SUFFIXES or _DNG_VERSION in getattr(image, "tag_v2", ())
    if image.format == "TIFF" and is_raw:
        raise PictureError(f"{name!r} {RAW.refuse('a picture')}", hint=RAW.hint)


def _check_size(name: str, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _size_error(name, size)
    if min(size) < MIN_SIDE:
        raise PictureError(
            f"the picture {name!r} is {width} x {height} pixels; each side must have at least {MIN_SIDE}",
            hint="use a larger picture",
        )


def _size_error(name: str, size: tuple[int, int] | None = None) -> PictureError:
    claim = f"{size[0]} x {size[1]} pixels" if size else "too many pixels"
    return PictureError(
        f"the picture {name!r} has {claim}; at most {MAX_PIXELS:,} are allowed",
        hint="scale it down first",
    )


def _damage_error(name: str, error: Exception) -> PictureError:
    """Return the error for a file that a decoder began to read, which may happen with other files than pictures."""
    kind = file_kind(Path(name))
    if kind is not None and kind.what not in _MAYBE_PICTURES:
        return PictureError(f"{name!r} {kind.refuse('a picture')}", hint=kind.hint)
    if is_out_of_memory(error):  # also what decoders raise for a size that only a damaged file can state
        reason = "is damaged, or needs more memory than there is"
        return PictureError(f"the picture {name!r} {reason}", hint="scale it down first, or copy it again")
    reason = str(error) or type(error).__name__
    return PictureError(f"the picture {name!r} is damaged or incomplete: {reason}", hint=_COPY_AGAIN)


def _permission_error(name: str) -> PictureError:
    return PictureError(
        f"the file {name!r} may not be read by this user", hint="change its permissions or copy it elsewhere"
    )


def _format_error(name: str) -> PictureError:
    if _is_heic(name) and "HEIF" not in Image.OPEN:
        return PictureError(
            f"{name!r} is a HEIC picture, and no HEIC decoder is installed",
            hint="pip install pillow-heif, or save the photo as JPEG",
        )
    kind = file_kind(Path(name))
    if kind is not None and kind.what != "a picture":
        return PictureError(f"{name!r} {kind.refuse('a picture')}", hint=kind.hint)
    return PictureError(f"{name!r} is not a picture of a supported format", hint=_USE_FORMATS)


def _is_heic(name: str) -> bool:
    """Return whether the name or the first bytes are those of HEIC; photos are often renamed to .jpg."""
    if Path(name).suffix.lower() in {".heic", ".heif"}:
        return True
    with Path(name).open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS
