"""The training pictures of a folder: the usable ones, and why the others are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stylescore.errors import PictureError, StylescoreError
from stylescore.images import Photo, read_photo
from stylescore.images.sheets import flatten_alpha
from stylescore.images.sizes import fitted_size
from stylescore_apply.storage.files import sha256

FEWEST = 3
"""With fewer pictures a network overfits: it memorizes them instead of what they have in common."""

SUFFIXES = frozenset(
    ".jpg .jpeg .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jp2 .ppm .psd .qoi".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class TrainingPicture:
    """One usable picture: its path, the hash of its file, and its sides in pixels."""

    path: Path
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Dataset:
    """The pictures of a folder.

    Attributes:
        pictures: the usable ones, by name.
        left_out: why each other one is not used, one line each, with its name.
        notes: what else the user should know.
    """

    pictures: tuple[TrainingPicture, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def read_dataset(folder: Path, *, strict: bool = False) -> Dataset:
    """Read every picture of a folder once.

    Args:
        folder: its own files are read, not those of folders in it.
        strict: raise for the first picture that cannot be used instead of leaving it out.

    Raises:
        PictureError: there is no such folder, no picture in it, or fewer than `FEWEST` can be used.
    """
    left_out: list[str] = []
    notes: list[str] = []
    found = [_read_picture(path, strict, left_out, notes) for path in list_pictures(folder)]
    pictures = tuple(_drop_copies([picture for picture in found if picture], strict, left_out))
    if len(pictures) < FEWEST:
        rest = f"; left out: {'; '.join(left_out)}" if left_out else ""
        raise PictureError(
            f"a style needs at least {FEWEST} usable pictures, {str(folder)!r} has {len(pictures)}{rest}",
            hint="twenty or more of one style, with different things in them, work best",
        )
    return Dataset(pictures, tuple(left_out), tuple(notes))


def list_pictures(folder: Path) -> list[Path]:
    """Return the files of a folder whose suffix is that of a picture, sorted by name.

    Raises:
        PictureError: it is no folder, or has none.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise PictureError(f"PICTURES must be a folder, {str(folder)!r} {what}", hint="put the pictures in a folder")
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise PictureError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from error
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise PictureError(f"there are no pictures in {str(folder)!r}", hint="JPEG, PNG, WebP and others are read")
    return files


def load_picture(path: Path) -> Image.Image:
    """Return a picture as upright RGB, on white where it is transparent."""
    photo = read_photo(path)
    return _put_on_white(photo)


def _put_on_white(photo: Photo) -> Image.Image:
    if photo.alpha is None:
        return photo.picture
    return flatten_alpha(Image.merge("RGBA", (*photo.picture.split(), photo.alpha)))


def _read_picture(path: Path, strict: bool, left_out: list[str], notes: list[str]) -> TrainingPicture | None:
    try:
        photo = read_photo(path)
        width, height = photo.picture.size
        fitted_size(width, height, 64)
        digest = sha256(path)
    except StylescoreError as error:
        if strict:
            raise
        left_out.append(f"{path.name}: {error}")
        return None
    notes += [f"{path.name}: {note}" for note in photo.notes]
    return TrainingPicture(path, digest, width, height)


def _drop_copies(pictures: Sequence[TrainingPicture], strict: bool, left_out: list[str]) -> Iterator[TrainingPicture]:
    """Yield each picture once, though several files may have the same content."""
    seen: dict[str, Path] = {}
    for picture in pictures:
        first = seen.setdefault(picture.sha256, picture.path)
        if first is picture.path:
            yield picture
            continue
        message = f"{picture.path.name}: the same picture as {first.name}"
        if strict:
            raise PictureError(message, hint="remove one of the two")
        left_out.append(message)
