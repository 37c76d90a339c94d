"""The queue: nothing is lost, sessions take turns, a killed worker's job comes back."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stylescore.errors import ConfigError, OutputError
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import MOST_ATTEMPTS, JobStore, StoredPhoto, UnknownError
from stylescore.studio.limits import LimitError, Limits
from stylescore.studio.settings import Settings

SETTINGS = Settings(style="van-gogh", content=0.7, caption="a cat", constants={"iterations": 3})


def add(store: JobStore, session: str, count: int = 1, name: str = "photo") -> list[str]:
    """Add a photo and that many jobs of it, and return the jobs' ids."""
    key = f"{name}-{session}-{time.monotonic_ns()}"
    photo = {"id": key, "session": session, "name": "a.png", "file": "a.png", "width": 8, "height": 8}
    store.add_photo(StoredPhoto(**photo, sha256=key, notes=("a note",), created=time.time()))
    return [job.id for job in store.add_jobs(session, [key] * count, SETTINGS, "mini")]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "studio.sqlite")


def claim(store: JobStore, device: str = "cpu") -> Any:
    taken = store.claim(device)
    return taken and taken[0]


def test_a_job_comes_back_as_it_was_added(store: JobStore) -> None:
    (key,) = add(store, "a")
    job = store.job("a", key)
    assert (job.settings, job.status, job.model, job.relevance) == (SETTINGS, "queued", "mini", None)
    assert store.photo("a", job.photo).notes == ("a note",)


def test_a_job_is_given_to_one_worker_only(store: JobStore) -> None:
    keys = add(store, "a", 40)
    taken: list[str] = []

    def work(device: str) -> None:
        while (job := claim(store, device)) is not None:
            taken.append(job.id)
            store.end(job.id, "done")

    threads = [threading.Thread(target=work, args=(f"cuda:{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(keys)


def test_sessions_take_turns_and_the_line_says_so_before(store: JobStore) -> None:
    many, few = add(store, "many", 4), add(store, "few", 2)
    late = add(store, "late", 1)
    expected = [key for _, key in store.line()]
    taken = []
    while (job := claim(store)) is not None:
        taken.append(job.id)
        store.end(job.id, "done")
    assert taken == expected
    assert taken == [many[0], few[0], late[0], many[1], few[1], many[2], many[3]]


def test_who_was_served_waits_for_who_comes_later(store: JobStore) -> None:
    first = add(store, "a", 3)
    assert claim(store).id == first[0]
    other = add(store, "b", 1)
    assert [key for _, key in store.line()] == [other[0], first[1], first[2]]
    assert claim(store).id == other[0]


def test_a_session_sees_nothing_of_another(store: JobStore) -> None:
    (key,) = add(store, "a")
    photo = store.job("a", key).photo
    for call in (
        lambda: store.job("b", key),
        lambda: store.request("b", key, "cancel"),
        lambda: store.resume("b", key),
        lambda: store.remove("b", key),
        lambda: store.photo("b", photo),
        lambda: store.add_jobs("b", [photo], SETTINGS, "mini"),
    ):
        with pytest.raises(UnknownError):
            call()
    assert store.jobs("b") == []
    assert store.job("a", key).status == "queued"


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_is_asked(store: JobStore) -> None:
    first, second = add(store, "a", 2)
    assert claim(store).id == first
    assert store.request("a", first, "stop").status == "running"
    assert store.report(first, iteration=2) == "stop"
    assert store.request("a", second, "cancel").status == "cancelled"
    assert claim(store) is None


def test_a_stopped_job_goes_on_where_it_was(store: JobStore) -> None:
    (key,) = add(store, "a")
    claim(store)
    store.report(key, iteration=3, total=9, folder="run")
    store.end(key, "stopped")
    store.resume("a", key)
    job = claim(store)
    assert (job.id, job.iteration, job.folder, job.requested) == (key, 3, "run", "")


def test_a_stopped_job_that_waits_to_go_on_and_is_cancelled_keeps_its_picture(store: JobStore) -> None:
    (key,) = add(store, "a")
    claim(store)
    store.report(key, iteration=3, total=9)
    store.end(key, "stopped")
    store.resume("a", key)
    assert store.request("a", key, "cancel").status == "stopped"


def test_what_has_ended_cannot_be_stopped_and_what_is_done_cannot_go_on(store: JobStore) -> None:
    (key,) = add(store, "a")
    claim(store)
    store.end(key, "done")
    with pytest.raises(ConfigError, match="does not run any more"):
        store.request("a", key, "stop")
    with pytest.raises(ConfigError, match="it cannot go on"):
        store.resume("a", key)


def test_the_job_of_a_killed_worker_comes_back_until_it_was_tried_often(store: JobStore) -> None:
    (key,) = add(store, "a")
    for _ in range(MOST_ATTEMPTS):
        assert claim(store).id == key
        store.recover("cuda:1")
        assert store.job("a", key).status == "running", "another device's worker does not touch it"
        store.recover("cpu")
    job = store.job("a", key)
    assert job.status == "failed"
    assert "was killed 3 times" in str(job.message)


def test_giving_a_job_back_is_no_attempt(store: JobStore) -> None:
    (key,) = add(store, "a")
    for _ in range(MOST_ATTEMPTS + 1):
        assert claim(store).id == key
        store.end(key, "queued")
    assert store.job("a", key).status == "queued"


def test_every_change_has_a_later_revision_and_removals_are_told(store: JobStore) -> None:
    first, second = add(store, "a", 2)
    seen = store.revision()
    assert store.jobs("a", seen) == []
    store.request("a", second, "cancel")
    store.remove("a", second)
    assert [(job.id, job.status) for job in store.jobs("a", seen)] == [(second, "removed")]
    assert [job.id for job in store.jobs("a")] == [first]


def test_clearing_leaves_what_runs_and_what_others_have(store: JobStore) -> None:
    running, waiting = add(store, "a", 2)
    other = add(store, "b")
    claim(store)
    photos, jobs = store.clear("a")
    assert (photos, jobs) == ([], [waiting]), "the running job needs the photo"
    assert [job.id for job in store.jobs("a")] == [running]
    assert [job.id for job in store.jobs("b")] == other
    store.end(running, "done")
    assert store.clear("a")[1] == [running]
    assert store.photos("a") == []


def test_what_is_removed_and_what_a_kill_left_is_swept_away(tmp_path: Path) -> None:
    folder = StudioFolder.make(tmp_path / "studio")
    store = JobStore(folder.database)
    kept, removed = add(store, "a", 2)
    photo = store.job("a", kept).photo
    store.request("a", removed, "cancel")
    store.remove("a", removed)
    (folder.photos / ".partial-upload").touch()
    for path in (folder.photo(photo), folder.photo("lost"), folder.run(kept), folder.run("lost")):
        path.mkdir()
        (path / "file").touch()
    folder.keep_only(*store.sweep())
    assert [path.name for path in folder.photos.iterdir()] == [photo]
    assert [path.name for path in folder.runs.iterdir()] == [kept]
    assert [job.id for job in store.jobs("a", 0)] == [kept]


def test_a_full_queue_refuses_all_of_a_request(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "small.sqlite", Limits(jobs=3, queue=4))
    add(store, "a", 2)
    with pytest.raises(LimitError, match="at most 3 pictures of yours, not 4"):
        add(store, "a", 2)
    assert len(store.jobs("a")) == 2
    add(store, "b", 2)
    with pytest.raises(LimitError, match="at most 4 pictures of everybody, not 5"):
        add(store, "c", 1)


def test_a_session_has_at_most_so_many_photos(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "small.sqlite", Limits(photos=1))
    add(store, "a")
    with pytest.raises(LimitError, match="at most 1 photos"):
        add(store, "a")


def test_a_damaged_or_later_file_is_refused(tmp_path: Path) -> None:
    damaged, later = tmp_path / "damaged.sqlite", tmp_path / "later.sqlite"
    damaged.write_bytes(b"no database" * 500)
    with pytest.raises(OutputError, match="cannot be opened"):
        JobStore(damaged)
    with sqlite3.connect(later) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="later version"):
        JobStore(later)


def test_the_jobs_of_a_session_that_wait_are_cancelled_and_no_others(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "studio.sqlite")
    running, stopped, waiting, other = (add(store, session)[0] for session in "aaab")
    claimed = store.claim("cpu")
    assert claimed is not None
    assert claimed[0].id == running
    store.report(stopped, iteration=3)
    assert [(job.id, job.status) for job in store.cancel_waiting("a")] == [(stopped, "stopped"), (waiting, "cancelled")]
    assert [store.job("a", running).status, store.job("b", other).status] == ["running", "queued"]
    assert store.cancel_waiting("a") == []


def test_a_queue_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "studio.sqlite"
    store = JobStore(path)
    (key,) = add(store, "a")
    with closing(sqlite3.connect(path)) as database:
        for column in ("listed", "caption", "caption_wanted"):
            database.execute(f"ALTER TABLE photos DROP COLUMN {column}")
        database.execute("ALTER TABLE jobs DROP COLUMN draft")
        database.execute("PRAGMA user_version = 1")
        old = json.dumps({"style": "watercolor", "content": 0.5, "caption": "", "seed": 0, "constants": {}})
        database.execute("UPDATE jobs SET settings = ?", (old,))
        database.commit()
    again = JobStore(path)
    job = again.job("a", key)
    assert job.settings.weights == {"watercolor": 1.0}
    assert again.photo("a", job.photo).listed
    assert not job.draft
    again.report(key, draft=True)
    assert again.job("a", key).draft
    JobStore(path)
