"""Captions of pictures, from where programs keep them: files beside the pictures, or tables in their folders.

Read are `name.txt` and `name.caption` beside `name.jpg`, or `name.jpg.txt`; tables with a column for the file and one
for the caption, as CSV, TSV or JSON lines (`metadata.jsonl` and `metadata.csv` of image folders for the datasets
library); and the JSON metadata of kohya's tools, `{"name": {"caption": ..., "tags": ...}}`.
"""

from __future__ import annotations

import csv
import os
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path, PureWindowsPath

from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore.storage.texts import describe_error, is_file, parse_json, read_text

CAPTION_SUFFIXES = (".txt", ".caption")
FILE_COLUMNS = (
    *("file", "file_name", "filename", "image", "picture", "path"),
    *("image_path", "file_path", "filepath", "image_file"),
)
TEXT_COLUMNS = ("caption", "text", "prompt")
TABLES = tuple(
    f"{stem}{suffix}"
    for stem in ("metadata", "captions", "meta_cap", "meta_lat")
    for suffix in (".jsonl", ".csv", ".tsv", ".json")
)
"""Names under which a table is found in a folder of pictures; the first one that has a picture gives its caption."""
LONGEST_CAPTION = 64 * 2**10
"""Longest caption file in bytes; text encoders truncate at a few hundred."""
LONGEST_TABLE = 32 * 2**20
_DELIMITERS = (",", ";", "\t")
_STATED_DELIMITER = re.compile(r"sep=(.)", re.I)
"""The line with which spreadsheet programs state what separates the cells."""
_OTHER_TABLES = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".parquet", ".arrow"), "a table of a data set"),
}
"""What files are that hold tables in other formats, by their suffix."""


@dataclass(frozen=True)
class CaptionSource:
    """Where captions come from: one of these two, or else files and tables beside the pictures.

    Attributes:
        caption: one for all.
        table: a CSV or TSV file with the columns `file` and `caption`, one JSON object a line with these names, or
            JSON with all of them.
    """

    caption: str | None = None
    table: Path | None = None


@dataclass(frozen=True)
class Captions:
    """What was found.

    Attributes:
        texts: the caption of each picture, in their order; empty where there is none.
        summary: one line on where they come from, and on what was assumed.
    """

    texts: Mapping[Path, str]
    summary: str


@dataclass
class _Table:
    """A table that was read.

    Attributes:
        path: of its file.
        texts: captions by picture.
        by_name: rows whose path is not here, and which were matched by the file's name alone.
        unknown: rows that name no picture.
        note: why it is not used, if it is not.
    """

    path: Path
    texts: dict[Path, str] = field(default_factory=dict)
    by_name: int = 0
    unknown: int = 0
    note: str = ""


def read_captions(
    pictures: Sequence[Path],
    source: CaptionSource = CaptionSource(),
    *,
    folder: Path | None = None,
    strict: bool = False,
) -> Captions:
    """Return the caption of each picture, and a line on where the captions were found.

    A file beside a picture wins over a table in its folder, and that over a table in a folder above.

    Args:
        pictures: their paths.
        source: one caption, or a table; without them, files and tables beside the pictures are read.
        folder: tables are looked for in the folders of the pictures, and in those above them up to this one.
        strict: raise where a picture has no caption.

    Raises:
        ConfigError: two sources, a table or text that cannot be read or does not fit the pictures, or,
            when strict, a picture without a caption.
    """
    if source.caption is not None and source.table is not None:
        raise ConfigError("--caption and --captions cannot be given together", hint="leave one of them out")
    found = _read_source(pictures, source, folder)
    missing = [path.name for path in pictures if not found.texts.get(path)]
    if strict and missing:
        raise ConfigError(
            f"{len(missing)} of {len(pictures)} pictures have no caption, such as {missing[0]!r}",
            hint="write a text file beside each, or leave out what needs them: --strict, or {caption} in a prompt",
        )
    return Captions({path: found.texts.get(path, "") for path in pictures}, found.summary)


def _read_source(pictures: Sequence[Path], source: CaptionSource, folder: Path | None) -> Captions:
    """Return the captions that there are."""
    if source.caption is not None:
        return Captions(dict.fromkeys(pictures, _join_lines(source.caption)), "captions: one for all pictures")
    if source.table is not None:
        table = _read_table(source.table, _Finder(pictures, folder, source.table), found=False)
        return Captions(table.texts, _summarize(pictures, {}, [table], ()))
    return _read_beside(pictures, folder)


def _read_beside(pictures: Sequence[Path], folder: Path | None) -> Captions:
    """Read the caption files beside the pictures, and the tables in their folders."""
    files = {parent: _list_sidecars(parent) for parent in {path.parent for path in pictures}}
    beside = {path: own for path in pictures if (own := _find_sidecars(path, files[path.parent]))}
    _refuse_shared(pictures, files)
    sidecars = {path: _join_lines(_read_text(own[0])) for path, own in beside.items()}
    tables = [_read_table(path, _Finder(pictures, folder, path), found=True) for path in _list_tables(pictures, folder)]
    texts = dict(_merge([sidecars, *(table.texts for table in tables)]))
    double = [own[:2] for own in beside.values() if len(own) > 1]
    return Captions(texts, _summarize(pictures, {path: own[0] for path, own in beside.items()}, tables, double))


def _merge(sources: Iterable[Mapping[Path, str]]) -> Iterator[tuple[Path, str]]:
    """Yield each picture's first caption that is not empty."""
    seen: set[Path] = set()
    for source in sources:
        new = {path: text for path, text in source.items() if text and path not in seen}
        seen |= set(new)
        yield from new.items()


def _summarize(
    pictures: Sequence[Path],
    beside: Mapping[Path, Path],
    tables: Sequence[_Table],
    double: Sequence[Sequence[Path]],
) -> str:
    """Return one line on where captions were found, and on what was assumed."""
    counts = Counter(f"{file.suffix.lower()} files" for file in beside.values())
    left = set(pictures) - set(beside)
    for table in tables:
        counts[table.path.name] += len(left & set(table.texts))
        left -= set(table.texts)
    parts = [f"{count} from {name}" for name, count in counts.items() if count]
    rest = [f"none for {len(left)} of {len(pictures)} pictures"] if left and parts else []
    return "captions: " + "; ".join([", ".join(parts) or "none found", *rest, *_notes(tables), *_note_double(double)])


def _notes(tables: Sequence[_Table]) -> Iterator[str]:
    """Yield what was assumed of each table, or why it is not used."""
    for table in tables:
        if table.note:
            yield f"{table.path.name} is not used: {table.note}"
        if table.by_name:
            yield f"rows of {table.path.name} matched by the file's name alone: {table.by_name}"
        if table.unknown:
            yield f"rows of {table.path.name} that name no picture here: {table.unknown}"


def _note_double(double: Sequence[Sequence[Path]]) -> Iterator[str]:
    if double:
        used, unused = double[0]
        yield f"{used.name} is used, not {unused.name}"


def _join_lines(text: str) -> str:
    """Return a text as one line, with single spaces."""
    return " ".join(text.split())


def _list_sidecars(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the caption files of a folder by what stands before their ending, and the ending in small letters."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in CAPTION_SUFFIXES)
    except OSError as error:
        raise ConfigError(f"the folder {str(folder)!r} cannot be read: {describe_error(error)}") from error
    return {(_compose(path.stem), path.suffix.lower()): path for path in files if is_file(path)}


def _compose(name: str) -> str:
    """Return a name with composed letters: programs on a Mac write "u" and two dots, others one letter."""
    return unicodedata.normalize("NFC", name)


def _find_sidecars(picture: Path, files: Mapping[tuple[str, str], Path]) -> list[Path]:
    """Return the caption files of a picture; the first one is used."""
    keys = ((stem, suffix) for suffix in CAPTION_SUFFIXES for stem in map(_compose, (picture.name, picture.stem)))
    return [files[key] for key in keys if key in files]


def _refuse_shared(pictures: Sequence[Path], files: Mapping[Path, Mapping[tuple[str, str], Path]]) -> None:
    """Raise `ConfigError` if pictures whose names differ only in the suffix have a caption file in common."""
    counts = Counter((path.parent, _compose(path.stem)) for path in pictures)
    for (folder, stem), count in counts.items():
        shared = next((files[folder][stem, end] for end in CAPTION_SUFFIXES if (stem, end) in files[folder]), None)
        if count > 1 and shared is not None:
            names = ", ".join(path.name for path in pictures if (path.parent, _compose(path.stem)) == (folder, stem))
            raise ConfigError(
                f"{shared.name!r} would be the caption of several pictures: {names}",
                hint="rename the pictures so that their names differ before the suffix",
            )


def _list_tables(pictures: Sequence[Path], folder: Path | None) -> list[Path]:
    """Return the tables in the folders of pictures, those of the deepest folders first."""
    places = {place for path in pictures for place in _places(path, folder)}
    ordered = sorted(places, key=lambda place: (-len(place.parts), str(place)))
    return [place / name for place in ordered for name in TABLES if is_file(place / name)]


def _places(picture: Path, folder: Path | None) -> Iterator[Path]:
    """Yield a picture's folder, and those above it up to `folder`."""
    for place in picture.parents:
        yield place
        if folder is None or place == folder or folder not in place.parents:
            return


class _Finder:
    """Finds the picture that a row of a table names."""

    def __init__(self, pictures: Sequence[Path], folder: Path | None, table: Path) -> None:
        self.folder = folder or (pictures[0].parent if pictures else table.parent)
        self.places = (self.folder, table.parent)
        self.by_path = {_absolute(path): path for path in pictures}
        self.names = [
            _unique((spell(name), path) for path in pictures for name in _names(path)) for spell in (_compose, _fold)
        ]

    def at_path(self, name: str) -> Path | None:
        """Return the absolute path of the file that a row names, in the pictures' folder or beside the table."""
        names = dict.fromkeys((name, name.replace("\\", "/")))
        places = (place / spelling for spelling in names if name for place in self.places)
        found = next(filter(is_file, places), None)
        return None if found is None else _absolute(found)

    def by_name(self, name: str) -> Path | None:
        """Return the absolute path of the only picture with this file name, whatever its folder; also without suffix.

        Tables name pictures by paths of the machine where they were made, on which capital letters may not count.
        """
        base = PureWindowsPath(name).name  # both kinds of slashes separate
        exact, folded = self.names
        found = exact.get(_compose(base)) or folded.get(_fold(base))
        return None if found is None else _absolute(found)

    def is_ambiguous(self, name: str) -> bool:
        """Tell whether pictures in several folders have this file name."""
        base = _fold(PureWindowsPath(name).name)
        return sum(base in map(_fold, _names(path)) for path in self.by_path) > 1


def _names(path: Path) -> set[str]:
    """Return a picture's file name, with and without suffix."""
    return {path.name, path.stem}


def _fold(name: str) -> str:
    return _compose(name).casefold()


def _unique(pairs: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Return the pairs whose key comes once."""
    known = list(pairs)
    counts = Counter(key for key, _ in known)
    return {key: path for key, path in known if counts[key] == 1}


def _absolute(path: Path) -> Path:
    """Return a path without `.` and `..`, so that two spellings of one file are the same."""
    return Path(os.path.abspath(path))


def _read_table(path: Path, finder: _Finder, *, found: bool) -> _Table:
    """Read a table; its rows may name pictures that are in the folder but not used.

    Args:
        path: of the table.
        finder: of the pictures.
        found: whether it was found in a folder of pictures, not given: then it may be about other things.
    """
    table = _Table(path)
    try:
        pairs = _read_pairs(path)
    except _NoColumnError as error:
        if not found:
            raise
        table.note = error.reason
        return table
    captions: dict[Path, str] = {}
    for name, caption in pairs:
        picture = _locate(table, name, finder, found=found)
        if picture is None:
            continue
        if picture in captions:
            raise ConfigError(f"the table {str(path)!r} names {quote(name)} twice", hint="leave one of the rows out")
        captions[picture] = _join_lines(caption)
    known = finder.by_path
    table.texts = {known[picture]: text for picture, text in captions.items() if picture in known}
    return table


def _locate(table: _Table, name: str, finder: _Finder, *, found: bool) -> Path | None:
    """Return the picture that a row names, and count how it was found."""
    exact = finder.at_path(name)
    picture = exact or finder.by_name(name)
    if picture is None and not found and finder.is_ambiguous(name):
        raise ConfigError(
            f"the table {str(table.path)!r} names {quote(name)}, and several folders have a picture of this name",
            hint="write the path relative to the folder",
        )
    if picture is None and not found:
        hint = did_you_mean(name, (path.name for path in finder.by_path))
        raise ConfigError(
            f"the table {str(table.path)!r} names {quote(name)}, which is not in {str(finder.folder)!r}",
            hint=hint or "leave the row out, or write the path relative to the folder",
        )
    table.by_name += picture is not None and exact is None
    table.unknown += picture is None
    return picture


def read_table_rows(path: Path) -> list[tuple[str, str]]:
    """Return what each row of a table names a file, and its caption in one line.

    Raises:
        ConfigError: it cannot be read, or lacks one of the two.
    """
    return [(name, _join_lines(caption)) for name, caption in _read_pairs(path)]


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    """Return the rows of a table: what they name a file, and its caption."""
    if kind := _OTHER_TABLES.get(path.suffix.lower()):
        raise ConfigError(f"the captions {str(path)!r} cannot be read: it is {kind}", hint="save it as CSV")
    match path.suffix.lower():
        case ".jsonl":
            return _read_json_lines(path)
        case ".json":
            return _read_json(path)
        case _:
            return _read_rows(path)


class _NoColumnError(ConfigError):
    """A table has no file or caption."""

    def __init__(self, table: Path, reason: str) -> None:
        super().__init__(f"the table {str(table)!r} {reason}", hint="begin it with the line: file,caption")
        self.reason = reason


def _read_rows(table: Path) -> list[tuple[str, str]]:
    """Return the rows of a table whose cells are separated by commas, or by tabs."""
    text = _read_text(table, LONGEST_TABLE)
    first, _, rest = text.partition("\n")
    stated = _STATED_DELIMITER.fullmatch(first.strip("\r"))
    text = rest if stated else text
    try:
        rows = list(csv.reader(StringIO(text, newline=""), delimiter=stated[1] if stated else _find_delimiter(text)))
    except csv.Error as error:
        raise _read_error(table, error) from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    name, caption = _find_column(table, head, FILE_COLUMNS), _find_column(table, head, TEXT_COLUMNS)
    return [(row[name].strip(), row[caption]) for row in rows[1:] if len(row) > max(name, caption) and any(row)]


def _find_delimiter(text: str) -> str:
    """Return what separates the cells of a table: with it, the first line names the columns."""
    first = text.split("\n", 1)[0].strip("\r")
    for delimiter in _DELIMITERS:
        cells = {cell.strip(' "').lower() for cell in first.split(delimiter)}
        if not cells.isdisjoint(FILE_COLUMNS) and not cells.isdisjoint(TEXT_COLUMNS):
            return delimiter
    return _DELIMITERS[0]


def _find_column(table: Path, head: Sequence[str], names: Sequence[str]) -> int:
    """Return the index of a column that may have any of these names."""
    for name in names:
        if name in head:
            return head.index(name)
    raise _NoColumnError(table, f"needs a column {names[0]!r}, its first line has {_shorten(head) or 'nothing'}")


def _read_json_lines(table: Path) -> list[tuple[str, str]]:
    """Return the rows of a table with one JSON object a line."""
    lines = enumerate(_read_text(table, LONGEST_TABLE).split("\n"), start=1)
    return [_read_object(table, number, _parse(table, line, number)) for number, line in lines if line.strip()]


def _read_json(table: Path) -> list[tuple[str, str]]:
    """Return the rows of a JSON file: a list of objects, or captions by file names."""
    content = _parse(table, _read_text(table, LONGEST_TABLE))
    if isinstance(content, Mapping):
        return [(name, text) for name, value in content.items() if (text := _text_of(value)) is not None]
    if isinstance(content, list):
        return [_read_object(table, number, value) for number, value in enumerate(content, start=1)]
    raise _NoColumnError(table, "is neither a table nor a list")


def _parse(table: Path, text: str, line: int | None = None) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise _read_error(table, error if line is None else ValueError(f"line {line}: {error}")) from error


def _read_object(table: Path, number: int, fields: object) -> tuple[str, str]:
    """Return the file and the caption of a JSON object."""
    name, caption = _first_text(fields, FILE_COLUMNS), _text_of(fields)
    if name is None or caption is None:
        raise _NoColumnError(table, f"cannot be used: line {number} needs the texts 'file' and 'caption'")
    return name.strip(), caption


def _text_of(value: object) -> str | None:
    """Return the caption in a JSON value: a text, or an object's; kohya's tools keep tags beside it and join them."""
    if isinstance(value, str):
        return value
    parts = [part for names in (TEXT_COLUMNS, ("tags",)) if (part := _first_text(value, names)) is not None]
    return ", ".join(parts) if parts else None


def _first_text(fields: object, names: Sequence[str]) -> str | None:
    """Return the first text that a JSON object has under one of these names."""
    known = fields if isinstance(fields, Mapping) else {}
    return next((known[name] for name in names if isinstance(known.get(name), str)), None)


def _shorten(head: Sequence[str]) -> str:
    return textwrap.shorten(", ".join(head), 200, placeholder=" ...")


def _read_text(path: Path, limit: int = LONGEST_CAPTION) -> str:
    """Read a text file."""
    try:
        return read_text(path, limit=limit)
    except (OSError, ValueError) as error:
        raise _read_error(path, error) from error


def _read_error(path: Path, error: Exception) -> ConfigError:
    hints: dict[type[Exception], str] = {
        FileNotFoundError: "give a file that exists",
        IsADirectoryError: "give a file in it",
    }
    hint = hints.get(type(error), "save it as UTF-8 text")
    return ConfigError(f"the captions {str(path)!r} cannot be read: {describe_error(error)}", hint=hint)
