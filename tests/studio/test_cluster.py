"""The studio's jobs on a Ray cluster: the same pictures, reported, stopped and given back as by a worker of its own."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.studio.test_worker import SECONDS, Bench, Unprepared, is_same

from stylescore.errors import ConfigError
from stylescore.runs.workers import Workers
from stylescore.studio import cluster
from stylescore.studio.engine import StylizeEngine
from stylescore.studio.jobs import MOST_ATTEMPTS
from stylescore.studio.serve import StudioOptions, _choose_devices
from stylescore.studio.supervisor import Supervisor
from stylescore.studio.worker import EngineLost, Stopped, Worker

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "studio")


@pytest.fixture
def ray_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


@needs_ray
def test_pictures_of_a_cluster_are_those_of_a_worker_here(bench: Bench, ray_of_two: Any) -> None:
    here = bench.add(seed=3)
    bench.run(StylizeEngine(), here)
    bench.store.end(here, "done")
    there, broken = bench.add(seed=3), bench.add(caption="<lora:x:1>")
    cluster.work_on_cluster(bench.folder, (), Workers(2), threading.Event())
    job = bench.store.job("a", there)
    assert (job.status, job.iteration, job.total) == ("done", 6, 6)
    assert str(job.device).startswith("ray-")
    assert is_same(bench.picture(here), bench.picture(there))
    failed = bench.store.job("a", broken)
    assert (failed.status, failed.hint) == ("failed", "delete it from the prompt and give --style x=1")


class Counting(Unprepared):
    """An engine that counts until it is asked to end."""

    def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
        numbers = itertools.count(1)
        while not report(iteration=next(numbers)):
            time.sleep(0.005)
        return "stopped"


@pytest.mark.parametrize(("requested", "status"), [("stop", "stopped"), (None, "queued")])
def test_what_the_user_wants_reaches_a_run_on_the_cluster(bench: Bench, requested: Any, status: str) -> None:
    remote = cluster._RemoteEngine(bench.folder, ())
    remote._engine = Counting()  # type: ignore[assignment]
    job, photo = bench.store.job("a", bench.add()), bench.store.photo("a", "photo")
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # what was wanted of one run is not wanted of the next
            run = pool.submit(remote.run, job, photo)
            seen = 0
            while seen < 3 and time.monotonic() < end:
                seen = remote.exchange("").get("iteration", seen)
            assert not run.done()
            while not run.done() and time.monotonic() < end:
                remote.exchange(requested)
            assert run.result() == status


class RayActorError(Exception):
    """Ray's own, of a process that died."""


class ThreadedRay(ModuleType):
    """As much of Ray as the studio uses, with threads in place of processes; without room nothing ever begins."""

    def __init__(self, engine: Any, *, room: bool = True) -> None:
        super().__init__("ray")
        self.engine, self.room, self.killed = engine, room, 0
        self.pool = ThreadPoolExecutor(cluster.THREADS)
        self.exceptions = ModuleType("ray.exceptions")
        vars(self.exceptions)["RayActorError"] = RayActorError

    def remote(self, kind: Any) -> Any:
        def start(*arguments: Any) -> Any:
            actor = kind(*arguments)
            actor._engine = self.engine
            return SimpleNamespace(run=self._method(actor.run), exchange=self._method(actor.exchange))

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=start))

    def _method(self, call: Any) -> Any:
        begin = self.pool.submit if self.room else lambda *_: Future()
        return SimpleNamespace(remote=lambda *arguments: begin(call, *arguments))

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        ended = list(wait(references, timeout=timeout).done)
        return ended, [each for each in references if each not in ended]

    def get(self, reference: Any) -> Any:
        return reference.result()

    def kill(self, actor: Any) -> None:
        self.killed += 1


@pytest.fixture
def threaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(engine: Any, **options: Any) -> ThreadedRay:
        ray = ThreadedRay(engine, **options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setitem(sys.modules, "ray.exceptions", ray.exceptions)
        return ray

    return use


def follow(bench: Bench, ends: Any) -> tuple[str, list[dict[str, Any]]]:
    """Make a picture on the cluster; return how it ended, and what was reported until then."""
    told: list[dict[str, Any]] = []

    def report(**fields: Any) -> Any:
        told.append(fields)
        return ends(fields)

    engine = cluster.ClusterEngine(bench.folder, (), {"num_cpus": 1.0})
    job, photo = bench.store.job("a", bench.add()), bench.store.photo("a", "photo")
    return engine.run(job, photo, report), told


def end_the_worker(fields: dict[str, Any]) -> Any:
    raise Stopped


def test_a_run_on_the_cluster_is_reported_and_stopped(bench: Bench, threaded: Any) -> None:
    ray = threaded(Counting())
    status, told = follow(bench, lambda fields: "stop" if fields.get("iteration", 0) > 3 else "")
    assert status == "stopped"
    assert told[0] == {"stage": "waiting for the cluster"}
    counted = [fields["iteration"] for fields in told if "iteration" in fields]
    assert counted == sorted(counted)
    assert ray.killed == 0


@pytest.mark.parametrize(("ends", "status"), [(lambda fields: "cancel", "cancelled"), (end_the_worker, "queued")])
def test_a_picture_that_waits_for_room_on_the_cluster_can_be_cancelled(
    bench: Bench, threaded: Any, ends: Any, status: str
) -> None:
    ray = threaded(Counting(), room=False)
    assert follow(bench, ends)[0] == status
    assert ray.killed == 1


def test_a_process_of_the_cluster_that_dies_is_known_as_lost(bench: Bench, threaded: Any) -> None:
    class Dying:
        def run(self, *arguments: Any) -> Any:
            raise RayActorError

    threaded(Dying())
    with pytest.raises(EngineLost):
        follow(bench, lambda fields: "")


def test_a_worker_that_is_to_end_says_so_to_the_cluster() -> None:
    def stop(**fields: Any) -> Any:
        raise Stopped

    assert cluster._passed_on(stop, {}) is None
    assert cluster._passed_on(lambda **fields: fields["requested"], {"requested": "stop"}) == "stop"


def test_a_lost_process_is_an_attempt_like_a_killed_worker(bench: Bench) -> None:
    key = bench.add()

    class Lost(Unprepared):
        def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
            raise EngineLost

    Worker(bench.store, "ray-2", Lost()).work(idle_seconds=0)  # type: ignore[arg-type]
    job = bench.store.job("a", key)
    assert (job.status, job.attempts) == ("failed", MOST_ATTEMPTS)
    assert "was killed 3 times" in str(job.message)


def test_jobs_of_all_slots_are_given_back(bench: Bench) -> None:
    keys = {bench.add(), bench.add()}
    assert {bench.store.claim(f"ray-{number}")[0].id for number in (1, 12)} == keys  # type: ignore[index]
    bench.store.recover("ray-1")
    assert bench.store.claim("cpu") is not None, "of its own alone"
    assert bench.store.claim("cpu") is None
    bench.store.recover("ray")
    assert bench.store.claim("cpu") is not None


@needs_ray
def test_the_cluster_takes_the_place_of_devices(tmp_path: Path) -> None:
    assert _choose_devices(StudioOptions(folder=tmp_path)) == ("auto",)
    assert _choose_devices(StudioOptions(folder=tmp_path, workers="ray:3")) == ("ray",)
    with pytest.raises(ConfigError, match="with --workers the cluster does"):
        _choose_devices(StudioOptions(folder=tmp_path, workers="ray", devices=("cpu",)))


def test_the_worker_is_started_for_a_cluster(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    begin = subprocess.Popen

    def record(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return begin([sys.executable, "-c", ""], **options)

    monkeypatch.setattr("subprocess.Popen", record)
    bench.folder.worker("ray").mkdir()
    Supervisor(bench.folder, bench.store, ["ray"], [], "ray:3")._spawn("ray").wait(SECONDS)
    assert commands[0][-4:] == ["--device", "ray", "--workers", "ray:3"]
