"""Finds the photos that a user names: files, folders, patterns such as `*.jpg`, and lists of these."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylescore.errors import ConfigError, PictureError
from stylescore.storage.texts import describe_error, is_file, is_folder, read_text
from stylescore_apply.images.opening import check_file
from stylescore_apply.names import parse_path

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .tif .tiff .avif .heic .heif .jp2 .ppm .psd .qoi".split()  # noqa: SIM905
)
TEXT_SUFFIXES = frozenset((".txt", ".caption", ".csv", ".tsv", ".json", ".jsonl"))
"""Endings of what lies beside photos and is no photo: captions and tables."""
RUN_FILES = ("config.toml", "steps.jsonl")
"""A folder with these is that of a run; its pictures are results."""


@dataclass(frozen=True)
class FoundPhoto:
    """A photo, and where it was found.

    Attributes:
        path: of its file.
        below: its folder relative to the one that was named; `None` if it was named itself.
    """

    path: Path
    below: Path | None = None


@dataclass(frozen=True)
class FoundPhotos:
    """What a user's names stand for.

    Attributes:
        photos: in the order of the names, each once; those of a folder sorted by path.
        left_out: files that were named among photos and are captions or tables.
    """

    photos: tuple[FoundPhoto, ...]
    left_out: tuple[Path, ...]


def find_photos(names: Sequence[str], *, recursive: bool = False, without: Sequence[Path] = ()) -> FoundPhotos:
    """Return the photos that names stand for; their files are not opened.

    Args:
        names: files, folders, and patterns with `*`, `?`, `[...]` and `**` that no file is called.
        recursive: whether folders are searched to any depth, else only their own files are taken.
        without: folders that are left out where they lie in others, such as that of the results.

    Raises:
        PictureError: a file is missing, a folder or a pattern has no pictures.
    """
    apart = {os.path.abspath(path) for path in without}
    found: dict[str, FoundPhoto] = {}
    for name in names:
        for photo in _find(name, recursive, apart):
            found.setdefault(os.path.abspath(photo.path), photo)
    texts = [photo for photo in found.values() if photo.path.suffix.lower() in TEXT_SUFFIXES]
    photos = [photo for photo in found.values() if photo not in texts]
    if not photos:
        return FoundPhotos(tuple(texts), ())
    return FoundPhotos(tuple(photos), tuple(photo.path for photo in texts))


def read_list(file: Path) -> list[str]:
    """Read names of photos from a text file, one a line; they are relative to its folder, else to the working folder.

    Empty lines and those that begin with `#` are left out.

    Raises:
        ConfigError: it cannot be read, or has no names.
    """
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the list {str(file)!r} cannot be read: {describe_error(error)}",
            hint="write one photo a line, as UTF-8 text",
        ) from error
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ConfigError(f"the list {str(file)!r} names no photo", hint="write one photo a line")
    return [_beside(file, name) for name in names]


def _beside(file: Path, name: str) -> str:
    """Return a name of a list as a path from the working folder."""
    near = file.parent / name
    exists = is_file(near) or is_folder(near) or (glob.has_magic(name) and bool(glob.glob(str(near), recursive=True)))
    return str(near) if exists else name


def _find(name: str, recursive: bool, apart: set[str]) -> Iterator[FoundPhoto]:
    path = parse_path(name)
    if is_folder(path):
        yield from _search(path, recursive, apart)
    elif not os.path.lexists(name) and glob.has_magic(name):
        yield from _match(name)
    else:
        check_file(name)
        yield FoundPhoto(path)


def _match(pattern: str) -> Iterator[FoundPhoto]:
    """Yield the pictures that a pattern fits."""
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    pictures = [path for path in matches if is_picture(path)]
    if not pictures:
        raise PictureError(f"no picture fits {pattern!r}", hint=f"the working folder is {str(Path.cwd())!r}")
    yield from map(FoundPhoto, pictures)


def _search(folder: Path, recursive: bool, apart: set[str]) -> Iterator[FoundPhoto]:
    """Yield the pictures of a folder."""
    places = _folders_below(folder, apart) if recursive else [folder]
    paths = sorted(path for place in places for path in _list(place) if is_picture(path))
    if not paths:
        hint = "JPEG, PNG, WebP and others are read" if recursive else "add --recursive to search the folders in it too"
        raise PictureError(f"there are no pictures in {str(folder)!r}", hint=hint)
    for path in paths:
        yield FoundPhoto(path, path.parent.relative_to(folder))


def _folders_below(folder: Path, apart: set[str]) -> Iterator[Path]:
    """Yield a folder and those in it, without hidden ones, those of runs, and those that are to be left out."""
    yield folder
    for path in _list(folder):
        if path.name.startswith(".") or path.is_symlink() or not is_folder(path):
            continue
        if os.path.abspath(path) not in apart and not all(is_file(path / name) for name in RUN_FILES):
            yield from _folders_below(path, apart)


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise PictureError(
            f"the folder {str(folder)!r} cannot be read: {describe_error(error)}", hint="check its permissions"
        ) from error


def is_picture(path: Path) -> bool:
    """Return whether a path is a file whose suffix is that of a picture, and that is not hidden."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and is_file(path)


def find_mask(masks: Path, photo: Path) -> Path:
    """Return the mask of a photo: a file for all, or in a folder the picture that has the photo's name.

    In a folder, `name.png` and `name.jpg.png` are masks of `name.jpg`, also in a folder in it that is called like the
    photo's.

    Raises:
        PictureError: there is none.
    """
    if not is_folder(masks):
        check_file(str(masks))
        return masks
    for place in (masks / photo.parent.name, masks):
        pictures = _list(place) if is_folder(place) else []
        for stem in (photo.name, photo.stem):
            found = next((path for path in pictures if path.stem == stem and is_picture(path)), None)
            if found is not None:
                return found
    raise PictureError(
        f"there is no mask for {photo.name!r} in {str(masks)!r}",
        hint=f"call it {photo.stem}.png, or leave the photo out",
    )
