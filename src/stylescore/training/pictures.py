"""The training pictures of a folder and those in it: the usable ones, and why the others are left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from stylescore.errors import PictureError, StylescoreError
from stylescore.images import Photo, read_photo
from stylescore.images.finding import SUFFIXES
from stylescore.images.sheets import flatten_alpha
from stylescore.images.sizes import fitted_size
from stylescore.storage.texts import is_file, is_folder
from stylescore_apply.storage.files import sha256

FEWEST = 3
"""With fewer pictures a network overfits: it memorizes them instead of what they have in common."""

REPEATS = re.compile(r"(\d{1,3})_")
RUN_RECORD = "config.toml"
"""A folder with this file is that of a run."""


@dataclass(frozen=True)
class TrainingPicture:
    """One usable picture: its path, the hash of its file, its sides in pixels, and how often an epoch uses it."""

    path: Path
    sha256: str
    width: int
    height: int
    repeats: int = 1


@dataclass(frozen=True)
class Dataset:
    """The pictures of a training.

    Attributes:
        pictures: the usable ones, by path.
        left_out: why each other one is not used, one line each, with its name.
        notes: what else the user should know.
    """

    pictures: tuple[TrainingPicture, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def read_dataset(folder: Path, *, strict: bool = False) -> Dataset:
    """Read every picture of a folder once.

    Args:
        folder: with the folders in it; or one picture.
        strict: raise for the first picture that cannot be used instead of leaving it out.

    Raises:
        PictureError: there is no such folder, no picture in it, or fewer than `FEWEST` can be used.
    """
    if is_file(folder):
        picture, notes = _read_picture(folder)
        return Dataset((picture,), (), tuple(notes))
    reader = _Reader(folder, strict, [], [])
    found = [reader.read(path) for path in list_pictures(folder, reader.left_out)]
    pictures = tuple(reader.drop_copies([picture for picture in found if picture]))
    left_out = reader.left_out
    if len(pictures) < FEWEST:
        rest = f"; left out: {'; '.join(left_out)}" if left_out else ""
        raise PictureError(
            f"a style needs at least {FEWEST} usable pictures, {str(folder)!r} has {len(pictures)}{rest}",
            hint="twenty or more of one style, with different things in them, work best; for a style from a single "
            "picture, give its file",
        )
    return Dataset(pictures, tuple(left_out), (*reader.notes, *_notes(folder, pictures)))


def list_pictures(folder: Path, left_out: list[str] | None = None) -> list[Path]:
    """Return the files of a folder and those in it whose suffix is that of a picture, sorted by path.

    Hidden folders, those of runs, and those whose name states no repeats (`0_name`) are left out.

    Args:
        folder: of pictures.
        left_out: lines on the folders in it that are not used are added to it.

    Raises:
        PictureError: it is no folder, cannot be read, or has none.
    """
    if not is_folder(folder):
        raise PictureError(
            f"PICTURES must be a folder or a picture, {str(folder)!r} {_describe_missing(folder)}",
            hint="put the pictures in a folder",
        )
    found = _walk(folder, [] if left_out is None else left_out)
    files = sorted(path for path in found if path.suffix.lower() in SUFFIXES and is_file(path))
    if not files:
        raise PictureError(f"there are no pictures in {str(folder)!r}", hint="JPEG, PNG, WebP and others are read")
    return files


def _describe_missing(path: Path) -> str:
    """Return why a path is no folder of pictures, in words after its name."""
    return "is a file of another kind" if is_file(path) else "does not exist"


def _walk(folder: Path, left_out: list[str]) -> Iterator[Path]:
    """Yield the files of a folder and those in it; what cannot be read raises `PictureError`."""
    for parent, folders, files in os.walk(folder, onerror=_raise_unreadable):
        reason = None if Path(parent) == folder else _reason_to_skip(Path(parent).name, files)
        if reason is not None:
            left_out.append(f"{Path(parent).relative_to(folder).as_posix()}: {reason}")
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _reason_to_skip(name: str, files: Collection[str]) -> str | None:
    """Return why the pictures of a folder are not used, if they are not."""
    if RUN_RECORD in files:
        return "the folder of a run, whose pictures were made from others"
    return "its name states 0 repeats" if stated_repeats(name) == 0 else None


def _raise_unreadable(error: OSError) -> None:
    raise PictureError(
        f"the folder {str(error.filename)!r} cannot be read: {error.strerror}", hint="check its permissions"
    ) from error


def stated_repeats(name: str) -> int | None:
    """Return how often an epoch uses each picture of a folder with this name; `None` if the name does not say.

    The layout is that of kohya's tools: `10_ink wash`. Numbers of more than three digits are taken for years.
    """
    found = REPEATS.match(name)
    return int(found[1]) if found else None


def _repeats(folder: Path, picture: Path) -> int:
    """Return what the nearest folder below `folder` states of a picture; 1 if none does."""
    parents = picture.relative_to(folder).parent.parts
    return next((count for name in reversed(parents) if (count := stated_repeats(name)) is not None), 1)


def _notes(folder: Path, pictures: Sequence[TrainingPicture]) -> Iterator[str]:
    """Yield what was assumed of nested folders."""
    nested = Counter(picture.path.parent.relative_to(folder).as_posix() for picture in pictures)
    if set(nested) != {"."}:
        counts = ", ".join(f"{count} in {'it' if name == '.' else name}" for name, count in nested.items())
        yield f"pictures of nested folders are used: {counts}"
    repeats = {picture.path.parent.name: picture.repeats for picture in pictures if picture.repeats != 1}
    if repeats:
        stated = ", ".join(f"{count} times in {name!r}" for name, count in repeats.items())
        yield f"an epoch uses each picture as often as its folder's name states: {stated}; its words are not used"


def load_picture(path: Path) -> Image.Image:
    """Return a picture as upright RGB, on white where it is transparent."""
    photo = read_photo(path)
    return _put_on_white(photo)


def _put_on_white(photo: Photo) -> Image.Image:
    if photo.alpha is None:
        return photo.picture
    return flatten_alpha(Image.merge("RGBA", (*photo.picture.split(), photo.alpha)))


@dataclass(frozen=True)
class _Reader:
    """Reads the pictures of a folder, and notes why others cannot be used.

    Attributes:
        folder: messages name pictures relative to it.
        strict: raise for what cannot be used.
        left_out: lines on what was left out.
        notes: lines on what was used with a change.
    """

    folder: Path
    strict: bool
    left_out: list[str]
    notes: list[str]

    def read(self, path: Path) -> TrainingPicture | None:
        """Read a picture; `None` if it is left out."""
        try:
            picture, notes = _read_picture(path)
        except StylescoreError as error:
            if self.strict:
                raise
            self.left_out.append(f"{self._name(path)}: {error}")
            return None
        self.notes.extend(f"{self._name(path)}: {note}" for note in notes)
        return replace(picture, repeats=_repeats(self.folder, path))

    def drop_copies(self, pictures: Sequence[TrainingPicture]) -> Iterator[TrainingPicture]:
        """Yield each picture once, though several files may have the same content."""
        seen: dict[str, Path] = {}
        for picture in pictures:
            first = seen.setdefault(picture.sha256, picture.path)
            if first is picture.path:
                yield picture
                continue
            message = f"{self._name(picture.path)}: the same picture as {self._name(first)}"
            if self.strict:
                raise PictureError(message, hint="remove one of the two")
            self.left_out.append(message)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _read_picture(path: Path) -> tuple[TrainingPicture, Sequence[str]]:
    """Return a picture that can be used, and notes on it; raise one of our errors for others."""
    photo = read_photo(path)
    width, height = photo.picture.size
    fitted_size(width, height, 64)
    return TrainingPicture(path, sha256(path), width, height), photo.notes
