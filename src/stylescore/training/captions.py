"""The caption of each picture: from files beside the pictures, from a table, or one for all."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylescore.errors import ConfigError, did_you_mean

FILE_COLUMNS = ("file", "file_name", "filename", "image", "picture")
TEXT_COLUMNS = ("caption", "text", "prompt")


@dataclass(frozen=True)
class CaptionSource:
    """Where captions come from: one of these two, or else files beside the pictures.

    Attributes:
        caption: one for all.
        table: a CSV file with the columns `file` and `caption`.
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
    """Read `name.txt` or `name.jpg.txt` beside each `name.jpg`."""
    shared = [file for file, count in Counter(path.with_suffix(".txt") for path in pictures).items() if count > 1]
    clash = next((file for file in shared if file.is_file()), None)
    if clash is not None:
        names = ", ".join(path.name for path in pictures if path.with_suffix(".txt") == clash)
        raise ConfigError(
            f"{clash.name!r} would be the caption of several pictures: {names}",
            hint="rename the pictures so that their names differ before the suffix",
        )
    return {path: _join_lines(_read_text(file)) for path in pictures if (file := _find_sidecar(path)) is not None}


def _find_sidecar(path: Path) -> Path | None:
    """Return the caption file of a picture, if there is one."""
    candidates = (path.with_name(path.name + ".txt"), path.with_suffix(".txt"))
    return next((file for file in candidates if file.is_file()), None)


def _read_table(table: Path, pictures: Sequence[Path]) -> dict[Path, str]:
    """Read a CSV file; its rows may name pictures that are in the folder but not used."""
    rows = list(csv.reader(_read_text(table).splitlines(), delimiter="\t" if table.suffix == ".tsv" else ","))
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    name, text = _find_column(table, head, FILE_COLUMNS), _find_column(table, head, TEXT_COLUMNS)
    pairs = [(row[name].strip(), row[text]) for row in rows[1:] if len(row) > max(name, text)]
    _require_names(table, [file for file, _ in pairs], pictures)
    by_name = {path.name: path for path in pictures}
    return {by_name[file]: _join_lines(caption) for file, caption in pairs if file in by_name}


def _find_column(table: Path, head: Sequence[str], names: Sequence[str]) -> int:
    """Return the index of a column that may have any of these names."""
    for name in names:
        if name in head:
            return head.index(name)
    raise ConfigError(
        f"the table {str(table)!r} needs a column {names[0]!r}, its first line has {', '.join(head) or 'nothing'}",
        hint="begin it with the line: file,caption",
    )


def _require_names(table: Path, names: Iterable[str], pictures: Sequence[Path]) -> None:
    """Raise `ConfigError` if a table names a picture twice or one that is not there."""
    counts = Counter(names)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"the table {str(table)!r} names {twice!r} twice", hint="leave one of the two rows out")
    folder = pictures[0].parent
    absent = next((name for name in counts if not (folder / name).is_file()), None)
    if absent is not None:
        hint = did_you_mean(absent, (path.name for path in pictures))
        raise ConfigError(f"the table {str(table)!r} names {absent!r}, which is not in {str(folder)!r}", hint=hint)


def _read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"the captions {str(path)!r} cannot be read: {reason}", hint="save it as UTF-8") from error


def choose_sheet_captions(known: Mapping[Path, str], count: int) -> list[str]:
    """Return the first different captions, for the sample sheets."""
    return list(dict.fromkeys(known.values()))[:count]
