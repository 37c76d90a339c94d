"""The caption of each picture: from files beside the pictures, from a table, or one for all."""

from __future__ import annotations

import csv
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from stylescore.errors import ConfigError, did_you_mean, quote
from stylescore.storage.texts import describe_error, is_file, parse_json, read_text

FILE_COLUMNS = ("file", "file_name", "filename", "image", "picture")
CAPTION_SUFFIXES = (".txt", ".caption")
LONGEST_CAPTION = 64 * 2**10
"""Longest caption file in bytes; text encoders truncate at a few hundred."""
LONGEST_TABLE = 32 * 2**20
TEXT_COLUMNS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class CaptionSource:
    """Where captions come from: one of these two, or else files beside the pictures.

    Attributes:
        caption: one for all.
        table: a CSV or TSV file with the columns `file` and `caption`, or one JSON object a line with these names.
    """

    caption: str | None = None
    table: Path | None = None


def find_captions(pictures: Sequence[Path], source: CaptionSource, *, strict: bool = False) -> dict[Path, str]:
    """Return the caption of each picture; an empty text where there is none.

    Raises:
        ConfigError: two sources, a table or text that cannot be read or does not fit the pictures, or,
            when strict, a picture without a caption.
    """
    if source.caption is not None and source.table is not None:
        raise ConfigError("--caption and --captions cannot be given together", hint="leave one of them out")
    if source.caption is not None:
        return dict.fromkeys(pictures, _join_lines(source.caption))
    found = _read_sidecars(pictures) if source.table is None else _read_table(source.table, pictures)
    missing = [path.name for path in pictures if not found.get(path)]
    if strict and missing:
        raise ConfigError(
            f"{len(missing)} of {len(pictures)} pictures have no caption, such as {missing[0]!r}",
            hint="write them, or leave --strict out to use the trigger words alone",
        )
    return {path: found.get(path, "") for path in pictures}


def make_prompt(trigger: str, caption: str) -> str:
    """Return the prompt of a picture: the trigger words, then the caption."""
    return ", ".join(filter(None, (trigger.strip(), caption.strip().strip(",").strip())))


def remove_trigger(trigger: str, prompt: str) -> str:
    """Return the caption in a prompt that `make_prompt` has made."""
    return prompt.removeprefix(trigger.strip()).removeprefix(",").strip()


def _join_lines(text: str) -> str:
    """Return a text as one line, with single spaces."""
    return " ".join(text.split())


def _read_sidecars(pictures: Sequence[Path]) -> dict[Path, str]:
    """Read `name.txt`, `name.caption` or `name.jpg.txt` beside each `name.jpg`; their endings may have capitals."""
    files = {folder: _list_sidecars(folder) for folder in {path.parent for path in pictures}}
    found = {path: _find_sidecar(path, files[path.parent]) for path in pictures}
    _refuse_shared(pictures, files)
    return {path: _join_lines(_read_text(file)) for path, file in found.items() if file is not None}


def _list_sidecars(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the caption files of a folder by what stands before their ending, and the ending in small letters."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in CAPTION_SUFFIXES)
    except OSError as error:
        raise ConfigError(f"the folder {str(folder)!r} cannot be read: {describe_error(error)}") from error
    return {(path.stem, path.suffix.lower()): path for path in files if is_file(path)}


def _find_sidecar(picture: Path, files: Mapping[tuple[str, str], Path]) -> Path | None:
    """Return the caption file of a picture, if there is one."""
    keys = ((stem, suffix) for suffix in CAPTION_SUFFIXES for stem in (picture.name, picture.stem))
    return next((files[key] for key in keys if key in files), None)


def _refuse_shared(pictures: Sequence[Path], files: Mapping[Path, Mapping[tuple[str, str], Path]]) -> None:
    """Raise `ConfigError` if pictures whose names differ only in the suffix have a caption file in common."""
    counts = Counter((path.parent, path.stem) for path in pictures)
    for (folder, stem), count in counts.items():
        shared = next((files[folder][stem, end] for end in CAPTION_SUFFIXES if (stem, end) in files[folder]), None)
        if count > 1 and shared is not None:
            names = ", ".join(path.name for path in pictures if (path.parent, path.stem) == (folder, stem))
            raise ConfigError(
                f"{shared.name!r} would be the caption of several pictures: {names}",
                hint="rename the pictures so that their names differ before the suffix",
            )


def _read_table(table: Path, pictures: Sequence[Path]) -> dict[Path, str]:
    """Read a table; its rows may name pictures that are in the folder but not used."""
    by_path = {_absolute(path): path for path in pictures}
    captions: dict[Path, str] = {}
    for file, caption in read_table_rows(table):
        path = _locate(table, file, pictures)
        if path in captions:
            raise ConfigError(f"the table {str(table)!r} names {quote(file)} twice", hint="leave one of the rows out")
        captions[path] = caption
    return {by_path[path]: caption for path, caption in captions.items() if path in by_path}


def read_table_rows(table: Path) -> list[tuple[str, str]]:
    """Return the file name and the caption of each row of a table of captions.

    Raises:
        ConfigError: it cannot be read, or lacks one of the two columns.
    """
    rows = _read_json_lines(table) if table.suffix.lower() == ".jsonl" else _read_rows(table)
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    name, text = _find_column(table, head, FILE_COLUMNS), _find_column(table, head, TEXT_COLUMNS)
    return [(row[name].strip(), _join_lines(row[text])) for row in rows[1:] if len(row) > max(name, text)]


def _read_rows(table: Path) -> list[list[str]]:
    """Return the rows of a table whose cells are separated by commas, or by tabs."""
    text = _read_text(table, LONGEST_TABLE)
    try:
        return list(csv.reader(StringIO(text, newline=""), delimiter="\t" if table.suffix.lower() == ".tsv" else ","))
    except csv.Error as error:
        raise _table_error(table, error) from error


def _read_json_lines(table: Path) -> list[list[str]]:
    """Return the rows of a table with one JSON object a line, under the names of the two columns that are needed."""
    rows = [[FILE_COLUMNS[0], TEXT_COLUMNS[0]]]
    for number, line in enumerate(_read_text(table, LONGEST_TABLE).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise _table_error(table, ValueError(f"line {number}: {error}")) from error
        cells = [_first_text(fields, names) for names in (FILE_COLUMNS, TEXT_COLUMNS)]
        if None in cells:
            raise _table_error(table, ValueError(f"line {number} needs the texts 'file' and 'caption'"))
        rows.append([cell or "" for cell in cells])
    return rows


def _first_text(fields: object, names: Sequence[str]) -> str | None:
    """Return the first text that a JSON object has under one of these names."""
    known = fields if isinstance(fields, Mapping) else {}
    return next((known[name] for name in names if isinstance(known.get(name), str)), None)


def _absolute(path: Path) -> Path:
    """Return a path without `.` and `..`, so that two spellings of one file are the same."""
    return Path(os.path.abspath(path))


def _locate(table: Path, name: str, pictures: Sequence[Path]) -> Path:
    """Return the picture that a table's row names, in the folder of the pictures or beside the table."""
    folder = pictures[0].parent
    found = next((path for path in (folder / name, table.parent / name) if name and is_file(path)), None)
    if found is None:
        hint = did_you_mean(name, (path.name for path in pictures))
        raise ConfigError(f"the table {str(table)!r} names {quote(name)}, which is not in {str(folder)!r}", hint=hint)
    return _absolute(found)


def _find_column(table: Path, head: Sequence[str], names: Sequence[str]) -> int:
    """Return the index of a column that may have any of these names."""
    for name in names:
        if name in head:
            return head.index(name)
    raise ConfigError(
        f"the table {str(table)!r} needs a column {names[0]!r}, its first line has {_shorten(head) or 'nothing'}",
        hint="begin it with the line: file,caption",
    )


def _shorten(head: Sequence[str]) -> str:
    return textwrap.shorten(", ".join(head), 200, placeholder=" ...")


def _read_text(path: Path, limit: int = LONGEST_CAPTION) -> str:
    """Read a UTF-8 file, with or without a byte order mark."""
    try:
        return read_text(path, limit=limit)
    except (OSError, ValueError) as error:
        raise _table_error(path, error) from error


def _table_error(path: Path, error: Exception) -> ConfigError:
    reason = describe_error(error)
    return ConfigError(f"the captions {str(path)!r} cannot be read: {reason}", hint="save it as UTF-8")


def choose_sheet_captions(known: Mapping[Path, str], count: int) -> list[str]:
    """Return the first different captions, for the sample sheets."""
    return list(dict.fromkeys(known.values()))[:count]
