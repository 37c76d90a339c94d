"""Where the photos of a training come from: a folder, a table, or webdataset shards; each is read when it is needed.

Every source has an order and random access, so that a training that was killed draws the same photos when it is
resumed.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Protocol

from PIL import Image

from stylescore.errors import ConfigError, PictureError, StylescoreError
from stylescore.images.captions import CaptionSource, read_captions, read_table_rows
from stylescore.images.finding import SUFFIXES
from stylescore.images.sizes import fitted_size
from stylescore.storage.texts import is_file, is_folder
from stylescore.training.pictures import list_pictures, load_picture
from stylescore_apply.storage.files import sha256

FEWEST = 4
TABLES = (".csv", ".tsv", ".jsonl")
CAPTIONS = (".txt", ".caption")
"""Endings of the members of a shard that hold a photo's caption."""


class PhotoSource(Protocol):
    """The photos of a training in a fixed order."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why other files are not used, one line each."""
        ...

    def __len__(self) -> int:
        """Return the number of photos."""
        ...

    def name(self, number: int) -> str:
        """Return what messages and records call a photo."""
        ...

    def load(self, number: int) -> Image.Image:
        """Return a photo as upright RGB.

        Raises:
            PictureError: it cannot be read.
        """
        ...

    def caption(self, number: int) -> str:
        """Return a photo's caption, or an empty text."""
        ...

    def digest(self) -> str:
        """Return a hash that changes when photos or captions do."""
        ...


@dataclass(frozen=True)
class PhotoFiles:
    """Photos in files of their own.

    Attributes:
        paths: sorted.
        captions: by path.
        left_out: why other files are not used, one line each.
    """

    paths: tuple[Path, ...]
    captions: Mapping[Path, str]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, paths: Iterable[Path], captions: Mapping[Path, str]) -> PhotoFiles:
        """Return those of the files that can be used; each is read once, so that none stops the training later."""
        paths = tuple(paths)
        problems = {path: problem for path in paths if (problem := _find_problem(path)) is not None}
        usable = tuple(path for path in paths if path not in problems)
        return cls(usable, captions, tuple(f"{path.name}: {problem}" for path, problem in problems.items()))

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.paths)

    def name(self, number: int) -> str:
        """Return the file's name."""
        return self.paths[number].name

    def load(self, number: int) -> Image.Image:
        """Return a photo as upright RGB, on white where it is transparent."""
        return load_picture(self.paths[number])

    def caption(self, number: int) -> str:
        """Return a photo's caption, or an empty text."""
        return self.captions.get(self.paths[number], "")

    def digest(self) -> str:
        """Return the SHA-256 over the hash of each file and its caption, in the order of the names."""
        lines = [f"{sha256(path)}  {self.captions.get(path, '')}\n" for path in self.paths]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Member:
    """A photo in a shard: the shard, the place of its bytes, and its caption."""

    shard: Path
    name: str
    start: int
    size: int
    caption: str


@dataclass(frozen=True)
class Shards:
    """Photos in webdataset shards: tar files whose members of one name, but for the ending, belong together.

    Only the places of the photos are held in memory; the shards are read where a photo lies.

    Attributes:
        members: in the order of the shards.
    """

    left_out: ClassVar[tuple[str, ...]] = ()
    members: tuple[Member, ...]

    def __len__(self) -> int:
        """Return the number of photos."""
        return len(self.members)

    def name(self, number: int) -> str:
        """Return the shard's name and the member's."""
        return f"{self.members[number].shard.name}/{self.members[number].name}"

    def load(self, number: int) -> Image.Image:
        """Return a photo as upright RGB."""
        member = self.members[number]
        try:
            with member.shard.open("rb") as file:
                file.seek(member.start)
                return _decode(file.read(member.size), Path(member.name).suffix)
        except (OSError, StylescoreError) as error:
            raise PictureError(f"{self.name(number)!r} cannot be read: {error}", hint="remove it") from error

    def caption(self, number: int) -> str:
        """Return a photo's caption, or an empty text."""
        return self.members[number].caption

    def digest(self) -> str:
        """Return the SHA-256 over the hash of each shard, in their order."""
        shards = dict.fromkeys(member.shard for member in self.members)
        return hashlib.sha256("".join(f"{sha256(shard)}\n" for shard in shards).encode()).hexdigest()


def open_photos(photos: Path, captions: CaptionSource) -> PhotoSource:
    """Return the photos that a path names: a folder of photos or of shards, a shard, or a table with `file,caption`.

    Raises:
        PictureError: there is nothing, or too little.
        ConfigError: captions that cannot be read or do not fit.
    """
    source = _open(photos, captions)
    if len(source) < FEWEST:
        raise PictureError(
            f"a generator's training needs at least {FEWEST} photos, {str(photos)!r} has {len(source)}",
            hint="some hundred photos of many things work best",
        )
    return source


def _open(photos: Path, captions: CaptionSource) -> PhotoSource:
    """Return the source of a path, however few photos it has."""
    if is_file(photos) and photos.suffix.lower() in TABLES:
        return _open_table(photos, captions)
    shards = _find_shards(photos)
    if shards:
        if captions.table is not None:
            raise ConfigError("--captions is for photos in files of their own, not for shards", hint="leave it out")
        return Shards(tuple(member for shard in shards for member in _index(shard, captions.caption)))
    if not is_folder(photos):
        what = "is another file" if is_file(photos) else "does not exist"
        raise PictureError(
            f"PHOTOS must be a folder of photos or .tar shards, a shard, or a table, {str(photos)!r} {what}",
            hint=f"put the photos in a folder; tables end in {', '.join(TABLES)}",
        )
    paths = list_pictures(photos)
    return PhotoFiles.of(paths, read_captions(paths, captions, folder=photos).texts)


def _find_problem(path: Path) -> str | None:
    """Return why a photo cannot be used, or `None` if it can."""
    try:
        fitted_size(*load_picture(path).size, 64)
    except StylescoreError as error:
        return str(error)
    return None


def _open_table(table: Path, captions: CaptionSource) -> PhotoFiles:
    """Return the photos that a table names, with its captions."""
    if captions.caption is not None or captions.table is not None:
        raise ConfigError("a table of photos has their captions itself", hint="leave --caption and --captions out")
    found = {table.parent / name: caption for name, caption in read_table_rows(table)}
    missing = next((path for path in found if not is_file(path)), None)
    if missing is not None:
        raise PictureError(f"the table {str(table)!r} names {str(missing)!r}, which is no file", hint="correct its row")
    return PhotoFiles.of(sorted(found), found)


def _find_shards(photos: Path) -> list[Path]:
    """Return the tar files that a path names: itself, or those of a folder."""
    if is_file(photos):
        return [photos] if photos.suffix.lower() == ".tar" else []
    return sorted(path for path in photos.glob("*.tar") if is_file(path)) if is_folder(photos) else []


def _index(shard: Path, caption: str | None) -> Iterator[Member]:
    """Yield the photos of a shard; only the heads of its members, and captions, are read."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members = [member for member in tar if member.isreg()]
            texts = {_key(m): _read_caption(tar, m) for m in members if Path(m.name).suffix.lower() in CAPTIONS}
    except (tarfile.TarError, OSError, ValueError) as error:
        raise PictureError(
            f"the shard {str(shard)!r} cannot be read: {error}", hint="shards are plain tar files"
        ) from error
    for member in members:
        if Path(member.name).suffix.lower() in SUFFIXES:
            text = texts.get(_key(member), "") if caption is None else caption
            yield Member(shard, member.name, member.offset_data, member.size, text)


def _key(member: tarfile.TarInfo) -> str:
    """Return a member's name up to the first dot after its folder, as webdataset groups them."""
    folder, _, base = member.name.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _read_caption(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None  # a regular file has content
    return " ".join(file.read(2**16).decode("utf-8").split())


def _decode(data: bytes, suffix: str) -> Image.Image:
    """Return a photo from a file's bytes; through a file, since that is what the checked reader takes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"photo{suffix}"
        path.write_bytes(data)
        return load_picture(path)


def split_photos(order: Sequence[int], held_out: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the photos that are held out, and of those that are trained on."""
    count = max(1, min(held_out, len(order) // 4))
    return list(order[:count]), list(order[count:])
