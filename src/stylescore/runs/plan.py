"""What a call of `stylize` has left to do: which photos are finished, which were interrupted, which are new."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stylescore.assembly.sources import Sources
from stylescore.config.run import RunConfig
from stylescore.errors import StylescoreError
from stylescore.runs.job import (
    COMMAND,
    FREE,
    PictureFolder,
    StylizeRecord,
    StylizeSettings,
    Task,
    Written,
    is_finished,
    make_settings,
    model_hashes,
)
from stylescore.runs.names import folder_name
from stylescore.runs.record import Record, flat_settings, read_record

AUTOMATIC = "auto"
"""The source of captions that a model has written."""

_COMPARED = ("output.*", "gif", "preview_every")
_UNCOMPARED = (*(name for name in FREE if name not in _COMPARED), "style_prompt")
"""Settings that do not change the result but by rounding, and what follows from the hashes."""
_FILLED_IN = ("run.prediction", "run.clip_skip")
"""Settings that a record has from the files, whose hashes are compared, where the call left them open."""
_NUMBERED = re.compile(r"(.*)-([0-9]{1,9})")


@dataclass(frozen=True)
class Finished:
    """A photo whose results are there."""

    task: Task
    folder: PictureFolder


@dataclass(frozen=True)
class Interrupted:
    """Photos of a batch whose runs are to be resumed, in its order."""

    tasks: tuple[Task, ...]
    folders: tuple[PictureFolder, ...]


@dataclass(frozen=True)
class New:
    """Photos, neighbours in the call, that have no run yet."""

    tasks: tuple[Task, ...]


Step = Finished | Interrupted | New


@dataclass
class Planner:
    """Finds the runs that earlier calls with the same settings have made.

    Attributes:
        run: the configuration of the call.
        sources: what its names stand for.
        written: what its runs write.
    """

    run: RunConfig
    sources: Sources
    written: Written
    _claimed: set[Path] = field(default_factory=set)
    _listed: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)

    def plan(self, tasks: Iterable[Task], *, again: bool = False) -> list[Step]:
        """Return what is to be done, in the order of the photos.

        Args:
            tasks: the photos.
            again: whether finished ones are made again, in their folders.
        """
        found = [(task, self._find(task)) for task in tasks]
        return list(_group(found, again))

    def _find(self, task: Task) -> PictureFolder | None:
        """Return the folder of the run that an earlier call has made for this photo with these settings."""
        for path in self._candidates(task):
            folder = PictureFolder(path)
            if path not in self._claimed and self._is_same(folder, task):
                self._claimed.add(path)
                return folder
        return None

    def _candidates(self, task: Task) -> Sequence[Path]:
        """Return the folders that have the name of this photo's run, with or without a number, in their order."""
        if task.parent not in self._listed:
            self._listed[task.parent] = _list_by_name(task.parent)
        return self._listed[task.parent].get(folder_name(task.pattern, task.photo, self.run), ())

    def _is_same(self, folder: PictureFolder, task: Task) -> bool:
        try:
            record = read_record(folder, COMMAND, StylizeSettings)
        except StylescoreError:  # of another program or version
            return False
        wanted = make_settings(task, self.sources.apply(self.run), self.written, record.settings.style_prompt)
        now = flat_settings(_record(wanted))
        free = [name for name in _FILLED_IN if now.get(name) is None]
        if AUTOMATIC == task.caption_source == record.settings.caption_source:
            free.append("run.caption")
        if not _agree(flat_settings(record), now, free):
            return False
        return dict(record.hashes) == {**task.hashes, **model_hashes(self.sources.hashes)}


def _record(settings: StylizeSettings) -> StylizeRecord:
    return Record(command=COMMAND, hashes={}, settings=settings)


def _agree(before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str]) -> bool:
    """Return whether two runs have one result, as far as their settings tell."""
    names = [name for name in {*before, *now} if before.get(name) != now.get(name)]
    return all(any(fnmatchcase(name, pattern) for pattern in (*_UNCOMPARED, *free)) for name in names)


def _list_by_name(parent: Path) -> dict[str, list[Path]]:
    """Return a folder's subfolders by their names without a number, those without one first."""
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except OSError:
        return {}
    by_name: dict[str, list[tuple[int, Path]]] = {}
    for name in names:
        by_name.setdefault(name, []).append((1, parent / name))
        if match := _NUMBERED.fullmatch(name):
            by_name.setdefault(match[1], []).append((int(match[2]), parent / name))
    return {name: [path for _, path in sorted(entries)] for name, entries in by_name.items()}


def _group(found: Sequence[tuple[Task, PictureFolder | None]], again: bool) -> Iterator[Step]:
    """Yield steps: an interrupted batch where its first photo stands, new photos together with their neighbours."""
    batches = _interrupted_batches([(task, folder) for task, folder in found if folder is not None], again)
    begun: set[str] = set()
    fresh: list[Task] = []
    for task, folder in found:
        if folder is None:
            fresh.append(task)
            continue
        if fresh:
            yield New(tuple(fresh))
            fresh = []
        if not again and is_finished(folder):
            yield Finished(task, folder)
        elif (key := _batch_of(folder)[0]) not in begun:
            begun.add(key)
            yield batches[key]
    if fresh:
        yield New(tuple(fresh))


def _interrupted_batches(found: Sequence[tuple[Task, PictureFolder]], again: bool) -> dict[str, Interrupted]:
    """Return the unfinished runs by their batch; all runs if they are to be made again."""
    parts: dict[str, list[tuple[int, Task, PictureFolder]]] = {}
    for task, folder in found:
        if again or not is_finished(folder):
            key, index = _batch_of(folder)
            parts.setdefault(key, []).append((index, task, folder))
    ordered = {key: sorted(part, key=lambda entry: entry[0]) for key, part in parts.items()}
    return {
        key: Interrupted(tuple(task for _, task, _ in part), tuple(folder for *_, folder in part))
        for key, part in ordered.items()
    }


def _batch_of(folder: PictureFolder) -> tuple[str, int]:
    """Return the key of a run's batch, and its place in it; a picture alone is a batch of its own."""
    place = read_record(folder, COMMAND, StylizeSettings).settings.batch
    return (f"/{folder.path}", 0) if place is None else (place.key, place.index)


def find_begun(tasks: Sequence[Task], run: RunConfig, key: str) -> dict[Task, PictureFolder]:
    """Return the folders that an interrupted attempt has made for the photos of a batch of this key."""
    found: dict[Task, PictureFolder] = {}
    for index, task in enumerate(tasks):
        for path in _list_by_name(task.parent).get(folder_name(task.pattern, task.photo, run), ()):
            with suppress(StylescoreError):  # the record of another program or version
                if key and _batch_of(PictureFolder(path)) == (key, index):
                    found[task] = PictureFolder(path)
    return found
