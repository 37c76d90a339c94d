"""The queue and the history in SQLite: photos, jobs, and who is served next.

Server and workers are several processes on one file. Every change is one short transaction; each changed job gets the
next revision, by which streams find what is new.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from stylescore.errors import ConfigError, InputError, OutputError
from stylescore.studio.limits import LimitError, Limits
from stylescore.studio.settings import Settings

Status = Literal["queued", "running", "stopped", "done", "failed", "cancelled", "removed"]
StopRequest = Literal["", "stop", "cancel"]

VERSION = 3
MOST_ATTEMPTS = 3
"""A run whose worker was killed so often is not begun again."""
BUSY_SECONDS = 30.0
UNFINISHED = ("queued", "running")
NO_MASKS: Mapping[str, str] = MappingProxyType({})
SERVER = "server"
"""Name under which a server says that it lives, see `JobStore.mark`."""
STOP = "stop"
"""Name under which all workers that began before are asked to end."""
CLUSTER = "ray"
"""Stands for a device; the slots of a Ray cluster are `ray-1`, `ray-2` and so on."""
_TABLES = """
CREATE TABLE IF NOT EXISTS photos (
    id TEXT PRIMARY KEY, session TEXT NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, sha256 TEXT NOT NULL, notes TEXT NOT NULL, created REAL NOT NULL,
    listed INTEGER NOT NULL DEFAULT 1, caption TEXT NOT NULL DEFAULT '', caption_wanted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS photos_of_session ON photos (session, created);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, session TEXT NOT NULL, photo TEXT NOT NULL,
    settings TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL, requested TEXT NOT NULL DEFAULT '',
    revision INTEGER NOT NULL, created REAL NOT NULL, ended REAL, device TEXT, attempts INTEGER NOT NULL DEFAULT 0,
    iteration INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0, seconds_left REAL, stage TEXT,
    preview INTEGER NOT NULL DEFAULT 0, folder TEXT, message TEXT, hint TEXT, relevance TEXT,
    draft INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
CREATE INDEX IF NOT EXISTS jobs_by_revision ON jobs (session, revision);
CREATE TABLE IF NOT EXISTS turns (session TEXT PRIMARY KEY, served INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""
_CHANGES = {
    1: (
        "ALTER TABLE photos ADD COLUMN listed INTEGER NOT NULL DEFAULT 1",
        "ALTER TABLE photos ADD COLUMN caption TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE photos ADD COLUMN caption_wanted INTEGER NOT NULL DEFAULT 0",
    ),
    2: ("ALTER TABLE jobs ADD COLUMN draft INTEGER NOT NULL DEFAULT 0",),
}
"""What makes a file of an earlier version one of the next."""


class UnknownError(InputError):
    """A photo or job that does not exist, or belongs to another session."""


@dataclass(frozen=True, kw_only=True)
class StoredPhoto:
    """An uploaded photo.

    Attributes:
        id: drawn by the studio.
        session: whose it is.
        name: of the file, as uploaded.
        file: of the copy in the photo's folder.
        width: in pixels, upright.
        height: in pixels.
        sha256: of the file.
        notes: sentences for the user.
        created: Unix time.
        listed: whether it is among the photos to choose from; one that is not is kept for its pictures.
        caption: what a model wrote of it; empty if none did.
        caption_wanted: whether a worker is to write it.
    """

    id: str
    session: str
    name: str
    file: str
    width: int
    height: int
    sha256: str
    notes: tuple[str, ...]
    created: float
    listed: bool = True
    caption: str = ""
    caption_wanted: bool = False


@dataclass(frozen=True, kw_only=True)
class StudioJob:
    """One picture to make, or made.

    Attributes:
        number: order of arrival.
        id: drawn by the studio.
        session: whose it is.
        photo: id of its photo.
        settings: what the user chose.
        model: name of the base model.
        status: where it stands.
        requested: how the user wants a running job to end; empty where it goes on.
        revision: of its last change.
        created: Unix time.
        ended: Unix time, once it does not run any more.
        device: of the worker that runs or ran it.
        attempts: how often a worker began it and did not come to an end.
        iteration: iterations done.
        total: iterations of the run; 0 before it has begun.
        seconds_left: an estimate.
        stage: what is done before the first iteration, in words.
        preview: number of the newest preview; 0 for none.
        folder: name of the run's folder in the job's.
        message: why it failed.
        hint: what to do about it.
        relevance: least and largest value of the relevance map; `None` if it is the same everywhere.
        draft: whether its worker has made a draft of it.
    """

    number: int
    id: str
    session: str
    photo: str
    settings: Settings
    model: str
    status: Status
    requested: StopRequest
    revision: int
    created: float
    ended: float | None
    device: str | None
    attempts: int
    iteration: int
    total: int
    seconds_left: float | None
    stage: str | None
    preview: int
    folder: str | None
    message: str | None
    hint: str | None
    relevance: tuple[float, float] | None
    draft: bool = False


class JobStore:
    """The photos and jobs of a studio."""

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        """Open the file, or make it.

        Raises:
            OutputError: it cannot be opened, is damaged, or was made by a later version.
        """
        self._path, self._limits = path, limits or Limits()
        try:
            with self._connect() as database:
                database.execute("PRAGMA journal_mode = WAL")
                found = database.execute("PRAGMA user_version").fetchone()[0]
                if found > VERSION:
                    raise OutputError(
                        f"{str(path)!r} was made by a later version of stylescore", hint="name another folder, --data"
                    )
                self._upgrade()
                database.executescript(_TABLES)
        except sqlite3.Error as error:
            raise OutputError(
                f"the studio's queue {str(path)!r} cannot be opened: {error}", hint="name another folder with --data"
            ) from error

    def _upgrade(self) -> None:
        """Make a file of an earlier version one of this version, wholly or not at all."""
        with self._write() as database:
            found = database.execute("PRAGMA user_version").fetchone()[0]
            for version in range(found or VERSION, VERSION):  # a new file has 0
                for change in _CHANGES[version]:
                    database.execute(change)
            database.execute(f"PRAGMA user_version = {VERSION}")

    def add_photo(self, photo: StoredPhoto) -> None:
        """Store what is known of an uploaded photo.

        Raises:
            LimitError: the session has too many.
        """
        with self._write() as database:
            count = database.execute("SELECT count(*) FROM photos WHERE session = ?", (photo.session,)).fetchone()[0]
            if count >= self._limits.photos:
                raise LimitError(f"a session keeps at most {self._limits.photos} photos", hint="clear the history")
            row = asdict(photo) | {"notes": json.dumps(photo.notes)}
            names = ", ".join(row)
            database.execute(f"INSERT INTO photos ({names}) VALUES ({_marks(row)})", tuple(row.values()))

    def photo(self, session: str, key: str) -> StoredPhoto:
        """Return a photo of a session.

        Raises:
            UnknownError: there is none.
        """
        return self._one_photo("id = ?", session, key)

    def find_photo(self, session: str, sha256: str) -> StoredPhoto | None:
        """Return the photo of a session with this hash, if it has one."""
        try:
            return self._one_photo("sha256 = ?", session, sha256)
        except UnknownError:
            return None

    def _one_photo(self, condition: str, session: str, value: str) -> StoredPhoto:
        with self._connect() as database:
            row = database.execute(
                f"SELECT * FROM photos WHERE session = ? AND {condition} ORDER BY created DESC", (session, value)
            ).fetchone()
        if row is None:
            raise UnknownError("there is no such photo", hint="drop it again")
        return _to_photo(row)

    def list_photo(self, session: str, key: str) -> StoredPhoto:
        """Put a photo among those to choose from again, as it was dropped again."""
        with self._write() as database:
            database.execute("UPDATE photos SET listed = 1 WHERE session = ? AND id = ?", (session, key))
        return self.photo(session, key)

    def remove_photo(self, session: str, key: str) -> bool:
        """Take a photo from those to choose from; return whether nothing needs it, so that its files can go.

        Raises:
            UnknownError: there is none.
        """
        self.photo(session, key)
        with self._write() as database:
            database.execute("UPDATE photos SET listed = 0 WHERE session = ? AND id = ?", (session, key))
            return _forget_unused(database, key)

    def want_caption(self, session: str, key: str) -> None:
        """Let a worker write the caption of a photo.

        Raises:
            UnknownError: there is no such photo.
        """
        self.photo(session, key)
        with self._write() as database:
            database.execute("UPDATE photos SET caption_wanted = 1 WHERE id = ?", (key,))

    def next_without_caption(self) -> StoredPhoto | None:
        """Return the photo that waits longest for its caption; `None` if none does."""
        with self._connect() as database:
            row = database.execute("SELECT * FROM photos WHERE caption_wanted ORDER BY created LIMIT 1").fetchone()
        return None if row is None else _to_photo(row)

    def set_caption(self, key: str, caption: str) -> None:
        """Store the caption of a photo; an empty one if none could be written."""
        with self._write() as database:
            database.execute("UPDATE photos SET caption = ?, caption_wanted = 0 WHERE id = ?", (caption, key))

    def masks(self, photo: str) -> set[str]:
        """Return the masks of a photo that its jobs have."""
        with self._connect() as database:
            rows = database.execute("SELECT settings FROM jobs WHERE photo = ? AND status != 'removed'", (photo,))
            found = {json.loads(row["settings"]).get("mask") for row in rows}
        return found - {None}

    def photos(self, session: str) -> list[StoredPhoto]:
        """Return a session's photos, the newest last."""
        with self._connect() as database:
            rows = database.execute("SELECT * FROM photos WHERE session = ? ORDER BY created", (session,))
            return [_to_photo(row) for row in rows]

    def add_jobs(
        self,
        session: str,
        photos: Sequence[str],
        settings: Settings,
        model: str,
        masks: Mapping[str, str] = NO_MASKS,
        *,
        own_captions: bool = False,
    ) -> list[StudioJob]:
        """Append one job for each photo, all or none.

        Args:
            session: whose they are.
            photos: ids.
            settings: of all of them.
            model: name of the base model.
            masks: masks of some of the photos.
            own_captions: whether each photo has its own caption, instead of that of the settings.

        Raises:
            UnknownError: a photo is not the session's.
            LimitError: the queue would become too long.
        """
        keys: list[str] = []
        with self._write() as database:
            found = [self.photo(session, photo) for photo in photos]
            self._check_room(database, session, len(photos))
            for photo in found:
                caption = photo.caption if own_captions else settings.caption
                own = replace(settings, mask=masks.get(photo.id), caption=caption)
                keys.append(self._add_job(database, session, photo.id, own, model))
        return [self.job(session, key) for key in keys]

    def _check_room(self, database: sqlite3.Connection, session: str, more: int) -> None:
        waiting = f"SELECT count(*), coalesce(sum(session = ?), 0) FROM jobs WHERE {_status_in(UNFINISHED)}"
        every, own = database.execute(waiting, (session,)).fetchone()
        for count, limit, whose in (
            (own, self._limits.jobs, "of yours"),
            (every, self._limits.queue, "of everybody"),
        ):
            if count + more > limit:
                raise LimitError(
                    f"the queue holds at most {limit} pictures {whose}, not {count + more}", hint="wait until some end"
                )

    def _add_job(self, database: sqlite3.Connection, session: str, photo: str, settings: Settings, model: str) -> str:
        key = secrets.token_hex(8)
        row = {
            "id": key,
            "session": session,
            "photo": photo,
            "settings": json.dumps(asdict(settings)),
            "model": model,
            "status": "queued",
            "revision": _next_revision(database),
            "created": time.time(),
        }
        database.execute(f"INSERT INTO jobs ({', '.join(row)}) VALUES ({_marks(row)})", tuple(row.values()))
        return key

    def job(self, session: str, key: str) -> StudioJob:
        """Return a job of a session.

        Raises:
            UnknownError: there is none.
        """
        with self._connect() as database:
            return _find(database, session, key)

    def jobs(self, session: str, after: int = -1) -> list[StudioJob]:
        """Return a session's jobs that changed after a revision, in order of arrival.

        Those that were removed are among them only if a revision is given.
        """
        with self._connect() as database:
            rows = database.execute(
                "SELECT * FROM jobs WHERE session = ? AND revision > ? ORDER BY number", (session, after)
            )
            return [job for job in map(_to_job, rows) if after >= 0 or job.status != "removed"]

    def revision(self) -> int:
        """Return the number of the last change of any job."""
        with self._connect() as database:
            return _counter(database, "revision")

    def line(self) -> list[tuple[str, str]]:
        """Return session and id of the jobs that wait, in the order in which they will be begun."""
        with self._connect() as database:
            rows = database.execute("SELECT session, id FROM jobs WHERE status = 'queued' ORDER BY number").fetchall()
            served = dict(database.execute("SELECT session, served FROM turns").fetchall())
        return list(_in_turns([(row["session"], row["id"]) for row in rows], served))

    def next_without_draft(self, most: int) -> list[tuple[StudioJob, StoredPhoto]]:
        """Return the first jobs in line, at most so many, that were not begun and of which no worker made a draft."""
        jobs = [self.job(session, key) for session, key in self.line()[:most]]
        return [(job, self.photo(job.session, job.photo)) for job in jobs if job.folder is None and not job.draft]

    def has_work(self) -> bool:
        """Return whether a job waits or runs."""
        with self._connect() as database:
            return database.execute(f"SELECT 1 FROM jobs WHERE {_status_in(UNFINISHED)}").fetchone() is not None

    def request(self, session: str, key: str, requested: StopRequest) -> StudioJob:
        """Request that a job stops and saves its picture, or is cancelled; one that waits is cancelled at once.

        Raises:
            UnknownError: there is no such job.
            ConfigError: it has ended already.
        """
        with self._write() as database:
            job = _find(database, session, key)
            if job.status == "running":
                _update(database, key, requested=requested)
            elif job.status == "queued":
                _take_off(database, job)
            else:
                raise ConfigError("this picture does not run any more", hint="it can be removed")
        return self.job(session, key)

    def cancel_waiting(self, session: str) -> list[StudioJob]:
        """Cancel the jobs of a session that wait, and return them."""
        with self._write() as database:
            rows = database.execute(
                "SELECT * FROM jobs WHERE session = ? AND status = 'queued' ORDER BY number", (session,)
            ).fetchall()
            keys = [_take_off(database, _to_job(row)) for row in rows]
        return [self.job(session, key) for key in keys]

    def resume(self, session: str, key: str) -> StudioJob:
        """Append a job that was stopped, was cancelled or failed to the queue again.

        Raises:
            UnknownError: there is no such job.
            ConfigError: it waits, runs or is done.
            LimitError: the queue is full.
        """
        with self._write() as database:
            job = _find(database, session, key)
            if job.status not in ("stopped", "cancelled", "failed"):
                raise ConfigError(f"this picture is {job.status}, it cannot go on", hint="begin another one")
            self._check_room(database, session, 1)
            _update(database, key, status="queued", requested="", attempts=0, ended=None, message=None, hint=None)
        return self.job(session, key)

    def remove(self, session: str, key: str) -> str | None:
        """Mark a job that does not run as removed; return the photo that nothing needs any more, if it was the last.

        Raises:
            UnknownError: there is no such job.
            ConfigError: it runs.
        """
        with self._write() as database:
            job = _find(database, session, key)
            if job.status == "running":
                raise ConfigError("a picture that is being made cannot be removed", hint="cancel it first")
            _update(database, key, status="removed", ended=time.time())
            return job.photo if _forget_unused(database, job.photo) else None

    def clear(self, session: str) -> tuple[list[str], list[str]]:
        """Forget a session's photos and jobs but those that run, and return their ids, to remove the files."""
        with self._write() as database:
            rows = database.execute("SELECT * FROM jobs WHERE session = ? AND status != 'removed'", (session,))
            jobs = [_to_job(row) for row in rows.fetchall()]
            kept = {job.photo for job in jobs if job.status == "running"}
            gone = [job.id for job in jobs if job.status != "running"]
            for key in gone:
                _update(database, key, status="removed", ended=time.time())
            every = [row["id"] for row in database.execute("SELECT id FROM photos WHERE session = ?", (session,))]
            photos = [key for key in every if key not in kept]
            database.executemany("DELETE FROM photos WHERE id = ?", [(key,) for key in photos])
        return photos, gone

    def sweep(self) -> tuple[set[str], set[str]]:
        """Forget what was removed, as no page is open any more that must learn of it; return the ids that are left."""
        with self._write() as database:
            database.execute("DELETE FROM jobs WHERE status = 'removed'")
            photos = {row["id"] for row in database.execute("SELECT id FROM photos")}
            jobs = {row["id"] for row in database.execute("SELECT id FROM jobs")}
        return photos, jobs

    def claim(self, device: str) -> tuple[StudioJob, StoredPhoto] | None:
        """Give a worker the next job: the oldest of the session that was served longest ago; `None` if none waits."""
        with self._write() as database:
            row = database.execute(
                "SELECT jobs.* FROM jobs LEFT JOIN turns USING (session) WHERE status = 'queued'"
                " ORDER BY coalesce(served, 0), number LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            job = _to_job(row)
            turn = _count_up(database, "turn")
            database.execute("INSERT OR REPLACE INTO turns (session, served) VALUES (?, ?)", (job.session, turn))
            _update(database, job.id, status="running", device=device, attempts=job.attempts + 1, stage="starting")
        return self.job(job.session, job.id), self.photo(job.session, job.photo)

    def report(self, key: str, **fields: Any) -> StopRequest:
        """Store how far a running job has come, and return how the user wants it to end."""
        if fields.get("relevance") is not None:
            fields["relevance"] = json.dumps(fields["relevance"])
        with self._write() as database:
            _update(database, key, **fields)
            row = database.execute("SELECT requested FROM jobs WHERE id = ?", (key,)).fetchone()
        requested: StopRequest = row["requested"] if row else "cancel"
        return requested

    def end(self, key: str, status: Status, *, message: str | None = None, hint: str | None = None) -> None:
        """Store that a job does not run any more; `queued` gives it back, as its worker was asked to end."""
        fields: dict[str, Any] = {"status": status, "requested": "", "stage": None, "seconds_left": None}
        fields |= {"message": message, "hint": hint, "attempts": 0}
        with self._write() as database:
            _update(database, key, **fields, ended=None if status == "queued" else time.time())

    def busy_devices(self) -> set[str]:
        """Return the devices whose workers run jobs, or ran them when they were killed; a cluster counts as one."""
        with self._connect() as database:
            rows = database.execute("SELECT DISTINCT device FROM jobs WHERE status = 'running'").fetchall()
        return {CLUSTER if row["device"].startswith(f"{CLUSTER}-") else row["device"] for row in rows}

    def recover(self, device: str) -> None:
        """Give back the jobs of a device, or of its slots, whose worker was killed; one begun too often has failed."""
        with self._write() as database:
            rows = database.execute(
                "SELECT * FROM jobs WHERE status = 'running' AND (device = ? OR device GLOB ?)", (device, f"{device}-*")
            ).fetchall()
            for job in map(_to_job, rows):
                if job.attempts < MOST_ATTEMPTS:
                    _update(database, job.id, status="queued", stage=None, seconds_left=None)
                else:
                    reason = f"the worker was killed {job.attempts} times while it made this picture"
                    hint = "there may be too little memory: choose a smaller size"
                    _update(database, job.id, status="failed", message=reason, hint=hint, ended=time.time())

    def mark(self, name: str) -> None:
        """Store the time of now under a name."""
        with self._write() as database:
            database.execute("INSERT OR REPLACE INTO counters (name, value) VALUES (?, ?)", (name, time.time()))

    def last_mark(self, name: str) -> float:
        """Return the Unix time that was stored under a name; 0 if none was."""
        with self._connect() as database:
            row = database.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return float(row["value"]) if row else 0.0

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection of its own, so that threads and processes need not share one."""
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction that no other writer interrupts."""
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")


def _in_turns(waiting: Sequence[tuple[str, str]], served: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield what waits in the order of `claim`: sessions in turns, the one that was served longest ago first."""
    lines: dict[str, deque[str]] = {}
    for session, key in waiting:
        lines.setdefault(session, deque()).append(key)
    turns = deque(sorted(lines, key=lambda session: served.get(session, 0)))
    while turns:
        session = turns.popleft()
        yield session, lines[session].popleft()
        if lines[session]:
            turns.append(session)


def _find(database: sqlite3.Connection, session: str, key: str) -> StudioJob:
    row = database.execute(
        "SELECT * FROM jobs WHERE session = ? AND id = ? AND status != 'removed'", (session, key)
    ).fetchone()
    if row is None:
        raise UnknownError("there is no such picture", hint="it may have been removed in another tab")
    return _to_job(row)


def _forget_unused(database: sqlite3.Connection, photo: str) -> bool:
    """Forget a photo that is not listed and has no jobs; return whether it was one."""
    found = database.execute(
        "DELETE FROM photos WHERE id = ? AND NOT listed"
        " AND NOT EXISTS (SELECT 1 FROM jobs WHERE photo = photos.id AND status != 'removed')",
        (photo,),
    )
    return found.rowcount > 0


def _take_off(database: sqlite3.Connection, job: StudioJob) -> str:
    """Take a job off the queue: one that was stopped before and waits to go on has a picture to go back to."""
    _update(database, job.id, status="stopped" if job.iteration else "cancelled", ended=time.time())
    return job.id


def _update(database: sqlite3.Connection, key: str, **fields: Any) -> None:
    fields = fields | {"revision": _next_revision(database)}
    assignments = ", ".join(f"{name} = ?" for name in fields)
    database.execute(f"UPDATE jobs SET {assignments} WHERE id = ?", (*fields.values(), key))


def _next_revision(database: sqlite3.Connection) -> int:
    return _count_up(database, "revision")


def _count_up(database: sqlite3.Connection, name: str) -> int:
    database.execute(
        "INSERT INTO counters (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1", (name,)
    )
    return _counter(database, name)


def _counter(database: sqlite3.Connection, name: str) -> int:
    row = database.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    return int(row["value"]) if row else 0


def _to_photo(row: sqlite3.Row) -> StoredPhoto:
    changes: dict[str, Any] = {"notes": tuple(json.loads(row["notes"]))}
    changes |= {name: bool(row[name]) for name in ("listed", "caption_wanted")}
    return StoredPhoto(**{**dict(row), **changes})


def _to_job(row: sqlite3.Row) -> StudioJob:
    relevance = None if row["relevance"] is None else tuple(json.loads(row["relevance"]))
    read = {"settings": Settings(**json.loads(row["settings"])), "relevance": relevance, "draft": bool(row["draft"])}
    return StudioJob(**dict(row) | read)


def _marks(row: Mapping[str, Any]) -> str:
    return ", ".join("?" * len(row))


def _status_in(known: Sequence[str]) -> str:
    return f"status IN ({', '.join(map(repr, known))})"
