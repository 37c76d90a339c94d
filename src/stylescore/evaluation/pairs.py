"""Pairs stylized pictures with their photos: by the records of run folders, and by file names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylescore.config.toml import LONGEST_TOML, parse_toml
from stylescore.errors import PictureError, count_of, quote
from stylescore.images.finding import SUFFIXES
from stylescore.runs.job import PictureFolder
from stylescore.storage.texts import is_file, is_folder, read_text

_SEPARATORS = ("-", "_", ".", " ")
_MOST_NAMES = 5


@dataclass(frozen=True)
class Result:
    """A stylized picture and the base name of the photo it was made from, as far as known.

    Attributes:
        path: the picture.
        name: its own base name; that of its folder for a run folder.
        photo: base name of the photo by the run's record, or `None` without a record.
    """

    path: Path
    name: str
    photo: str | None = None


@dataclass(frozen=True)
class Pair:
    """A photo and a picture made from it.

    Attributes:
        name: base name of the photo.
        source: the photo.
        stylized: the picture.
    """

    name: str
    source: Path
    stylized: Path


@dataclass(frozen=True)
class Pairing:
    """The pairs of two folders, and what is in no pair.

    Attributes:
        pairs: in the order of the photos' names.
        without_result: photos that no picture was made from.
        without_photo: pictures whose photo is missing.
    """

    pairs: tuple[Pair, ...]
    without_result: tuple[str, ...]
    without_photo: tuple[str, ...]

    def only(self, names: Iterable[str]) -> Pairing:
        """Return the pairs of these photos."""
        kept = set(names)
        return Pairing(tuple(pair for pair in self.pairs if pair.name in kept), self.without_result, self.without_photo)

    def describe(self) -> list[str]:
        """Say what is in no pair, one line for each kind."""
        kinds = (("photo", "result", self.without_result), ("result", "photo", self.without_photo))
        return [
            f"{count_of(len(names), one)} without a {other}: {_list_names(names)}"
            for one, other, names in kinds
            if names
        ]


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder by name, or a single picture.

    Raises:
        PictureError: there is no such file or folder, or no picture in it.
    """
    if is_file(folder):
        return [folder]
    _require_folder(folder)
    found = sorted(path for path in folder.iterdir() if _is_picture(path))
    if not found:
        raise PictureError(
            f"there are no pictures in {quote(str(folder))}", hint=f"they end in {', '.join(sorted(SUFFIXES)[:6])} ..."
        )
    return found


def list_results(folder: Path) -> list[Result]:
    """Return the stylized pictures of a folder: its own, and those of the run folders in it or below.

    Raises:
        PictureError: there is no such file or folder, or no picture in it.
    """
    if is_file(folder):
        return [Result(folder, folder.stem)]
    _require_folder(folder)
    runs = [PictureFolder(path.parent) for path in sorted(folder.rglob(PictureFolder(Path()).config_file.name))]
    finished = [run for run in runs if is_file(run.picture)]
    if finished:
        return [Result(run.picture, run.path.resolve().name, _photo_of(run)) for run in finished]
    return [Result(path, path.stem) for path in list_pictures(folder)]


def make_pairs(photos: Sequence[Path], results: Sequence[Result]) -> Pairing:
    """Pair results with photos.

    The photo of a result is the one that its run's record names; else the one of the same base name; else the one with
    the longest base name that the result's begins with, before `-`, `_`, `.` or a space.

    Raises:
        PictureError: two photos have one base name, or there is no pair.
    """
    by_name = index_photos(photos)
    found = [(_match(result, by_name), result) for result in results]
    pairs = sorted((Pair(name, by_name[name], result.path) for name, result in found if name is not None), key=_order)
    if not pairs:
        raise PictureError(
            f"no result belongs to a photo: {_list_names([result.name for result in results])} against "
            f"{_list_names(list(by_name))}",
            hint="name results after their photos, such as cat.png or cat-watercolor.png for cat.jpg",
        )
    used = {pair.name for pair in pairs}
    lonely = tuple(result.name for name, result in found if name is None)
    return Pairing(tuple(pairs), tuple(name for name in by_name if name not in used), lonely)


def _order(pair: Pair) -> tuple[str, str]:
    return pair.name, str(pair.stylized)


def index_photos(photos: Sequence[Path]) -> dict[str, Path]:
    """Return photos by their base names.

    Raises:
        PictureError: two have one.
    """
    found: dict[str, Path] = {}
    for path in photos:
        if path.stem in found:
            raise PictureError(
                f"two photos have the name {path.stem!r}: {found[path.stem].name!r} and {path.name!r}",
                hint="rename one of them",
            )
        found[path.stem] = path
    return found


def _match(result: Result, photos: Mapping[str, Path]) -> str | None:
    for name in (result.photo, result.name):
        if name is not None and name in photos:
            return name
    if result.photo is not None:
        return None
    prefixes = [name for name in photos if result.name.startswith(tuple(name + mark for mark in _SEPARATORS))]
    return max(prefixes, key=len, default=None)


def _photo_of(run: PictureFolder) -> str | None:
    """Return the base name of a run's photo, or `None` if its record does not say."""
    try:
        photo = parse_toml(read_text(run.config_file, limit=LONGEST_TOML)).get("photo")
    except (OSError, ValueError):
        return None
    return Path(photo).stem if isinstance(photo, str) and photo else None


def _require_folder(folder: Path) -> None:
    if not is_folder(folder):
        raise PictureError(f"there is no folder {quote(str(folder))}", hint="check the spelling")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and is_file(path)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(map(repr, names[:_MOST_NAMES]))}{more}"
