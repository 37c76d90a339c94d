"""Votes in an SQLite file: every one is written at once, and a study goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylescore.comparison.ranking import Vote
from stylescore.comparison.study import Study, Task
from stylescore.errors import ConfigError, OutputError

Choice = Literal["left", "right", "tie"]

_SCHEMA = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE voters (token TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE votes (
    voter TEXT NOT NULL, task INTEGER NOT NULL, question TEXT NOT NULL, photo TEXT NOT NULL,
    left_method TEXT NOT NULL, right_method TEXT NOT NULL, choice TEXT NOT NULL, time TEXT NOT NULL,
    PRIMARY KEY (voter, task, question)
);
PRAGMA user_version = 1;
"""
_VERSION = 1
COLUMNS = ("voter", "photo", "question", "left", "right", "choice", "time")


@dataclass(frozen=True)
class Row:
    """One vote as it is stored.

    Attributes:
        voter: name of the voter.
        photo: base name of the photo.
        question: name of the question.
        left: method on the left.
        right: method on the right.
        choice: "left", "right" or "tie".
        time: when, in UTC.
    """

    voter: str
    photo: str
    question: str
    left: str
    right: str
    choice: str
    time: str

    def as_vote(self) -> Vote:
        """Return it without sides."""
        winner = {"left": self.left, "right": self.right}.get(self.choice)
        return Vote(self.left, self.right, winner)


class Votes:
    """The file of one study."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path, study: Study, voters: Sequence[str]) -> Votes:
        """Open the file of a study, which is made if there is none, and add voters that are new.

        Raises:
            ConfigError: it holds votes of another study, or is no file of votes.
            OutputError: it cannot be written.
        """
        found = cls(path)
        facts = {"methods": list(study.methods), "pairs": study.pairs(), "seed": study.seed, "most": study.most}
        with found._connect(create=True) as db:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                db.executescript(_SCHEMA)
                db.execute("INSERT INTO study VALUES ('facts', ?)", (json.dumps(facts),))
            _require_version(db, path)
            saved = json.loads(db.execute("SELECT value FROM study WHERE key = 'facts'").fetchone()[0])
            if saved != json.loads(json.dumps(facts)):
                raise ConfigError(
                    f"{str(path)!r} holds the votes of other folders, photos or numbers",
                    hint="give another --votes, or the same folders and options again",
                )
            for voter in voters:
                db.execute("INSERT OR IGNORE INTO voters VALUES (?, ?)", (secrets.token_urlsafe(16), voter))
        return found

    @classmethod
    def existing(cls, path: Path) -> Votes:
        """Open a file of votes to read it.

        Raises:
            ConfigError: there is none.
        """
        if not path.is_file():
            raise ConfigError(f"there is no file of votes {str(path)!r}", hint="stylescore compare A B collects some")
        found = cls(path)
        with found._connect(create=False) as db:
            _require_version(db, path)
        return found

    def methods(self) -> list[str]:
        """Return the names of the methods."""
        with self._connect(create=False) as db:
            facts = json.loads(db.execute("SELECT value FROM study WHERE key = 'facts'").fetchone()[0])
        return [str(name) for name in facts["methods"]]

    def voters(self) -> dict[str, str]:
        """Return the names of the voters by token."""
        with self._connect(create=False) as db:
            return dict(db.execute("SELECT token, name FROM voters ORDER BY rowid"))

    def answered(self, voter: str) -> set[tuple[int, str]]:
        """Return which tasks, by index and question, a voter has answered."""
        with self._connect(create=False) as db:
            return set(db.execute("SELECT task, question FROM votes WHERE voter = ?", (voter,)))

    def save(self, voter: str, number: int, task: Task, question: str, choice: Choice) -> None:
        """Write one vote; a later one on the same question replaces it."""
        row = (voter, number, question, task.photo, task.left, task.right, choice)
        with self._connect(create=False) as db:
            db.execute("INSERT OR REPLACE INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, datetime('now'))", row)

    def remove(self, voter: str, number: int, question: str) -> None:
        """Take a vote back."""
        with self._connect(create=False) as db:
            db.execute("DELETE FROM votes WHERE voter = ? AND task = ? AND question = ?", (voter, number, question))

    def rows(self) -> list[Row]:
        """Return all votes in the order of the voters and their tasks."""
        query = "SELECT voter, photo, question, left_method, right_method, choice, time FROM votes ORDER BY voter, task"
        with self._connect(create=False) as db:
            return [Row(*row) for row in db.execute(query)]

    @contextmanager
    def _connect(self, *, create: bool) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is kept whole or not at all."""
        mode = "rwc" if create else "rw"
        try:
            with closing(sqlite3.connect(f"{self.path.absolute().as_uri()}?mode={mode}", uri=True)) as db, db:
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutputError(
                    f"the votes {str(self.path)!r} cannot be used: {error}", hint="check folder and disk"
                ) from error
            raise ConfigError(
                f"{str(self.path)!r} is no file of votes: {error}", hint="give another --votes"
            ) from error


def _require_version(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version != _VERSION or not {"study", "voters", "votes"} <= tables:
        raise ConfigError(f"{str(path)!r} is no file of votes of this version", hint="give another --votes")


def to_csv(rows: Sequence[Row]) -> str:
    """Return votes as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    return out.getvalue()
