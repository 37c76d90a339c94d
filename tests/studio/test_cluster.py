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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.studio.test_worker import SECONDS, Bench, is_same

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


@needs_ray
@pytest.mark.parametrize(("requested", "status"), [("cancel", "cancelled"), ("end", "queued")])
def test_a_picture_that_waits_for_room_on_the_cluster_can_be_cancelled(
    bench: Bench, ray_of_two: Any, requested: str, status: str
) -> None:
    engine = cluster.ClusterEngine(bench.folder, (), {"num_cpus": 99.0})
    stages: list[str] = []

    def report(**fields: Any) -> Any:
        stages.extend([fields["stage"]] if "stage" in fields else [])
        if requested == "end":
            raise Stopped
        return requested

    job, photo = bench.store.job("a", bench.add()), bench.store.photo("a", "photo")
    assert engine.run(job, photo, report) == status
    assert stages == ["waiting for the cluster"]


class Counting:
    """An engine that counts until it is asked to end."""

    def run(self, job: Any, photo: Any, report: Any) -> Any:
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


def test_a_worker_that_is_to_end_says_so_to_the_cluster() -> None:
    def stop(**fields: Any) -> Any:
        raise Stopped

    assert cluster._passed_on(stop, {}) is None
    assert cluster._passed_on(lambda **fields: fields["requested"], {"requested": "stop"}) == "stop"


def test_a_lost_process_is_an_attempt_like_a_killed_worker(bench: Bench) -> None:
    key = bench.add()

    class Lost:
        def run(self, job: Any, photo: Any, report: Any) -> Any:
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
