"""Makes the studio's pictures on a Ray cluster: each slot takes jobs as a device does, and an actor computes them.

Previews and pictures come back through the studio's folder, which all machines need under the same path; how far a run
is comes back by messages. Ray is imported when the first worker starts.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylescore.errors import StylescoreError
from stylescore.runs.workers import Workers, connected, find_slots
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import CLUSTER, JobStore, Status, StopRequest, StoredPhoto, StudioJob
from stylescore.studio.worker import (
    IDLE_SECONDS,
    SECONDS_BETWEEN_LOOKS,
    EngineLost,
    LazyEngine,
    Stopped,
    Waiting,
    Worker,
)
from stylescore_apply.storage.files import SIGNALS

THREADS = 2
"""Of an actor: one computes, the other says how far it is."""
WAITING = "waiting for the cluster"
UNBEGUN: dict[StopRequest | None, Status] = {"cancel": "cancelled", None: "queued"}
"""How a job ends for which the cluster had no room yet, by how it is to end."""


def work_on_cluster(
    folder: StudioFolder, styles: tuple[Path, ...], workers: Workers, stopping: threading.Event
) -> None:
    """Take jobs until the workers are asked to end or there is nothing to do for long.

    Args:
        folder: of the studio.
        styles: folders and files of styles besides the usual ones.
        workers: how many processes there are to be.
        stopping: set to make them end after the iteration in progress.
    """
    store = JobStore(folder.database)
    store.recover(CLUSTER)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with connected():
        for number, handler in handlers.items():  # Ray has put its own in their place
            signal.signal(number, handler)
        slots = find_slots(workers, "auto")
        makers = [
            Worker(store, f"{CLUSTER}-{number}", ClusterEngine(folder, styles, dict(slots.resources)), stopping)
            for number in range(1, slots.count + 1)
        ]
        _work_together(makers, store, stopping)


def _work_together(makers: Sequence[Worker], store: JobStore, stopping: threading.Event) -> None:
    """Let the slots take jobs; none ends for want of them while another has one."""
    last = time.monotonic()
    with ThreadPoolExecutor(len(makers)) as pool:
        ends = [pool.submit(maker.work, idle_seconds=math.inf) for maker in makers]
        while wait(ends, timeout=SECONDS_BETWEEN_LOOKS).not_done:
            if store.has_work():
                last = time.monotonic()
            elif time.monotonic() - last > IDLE_SECONDS:
                stopping.set()
    for end in ends:
        end.result()


@dataclass
class ClusterEngine:
    """An engine that is a process of the cluster, started when the first job comes.

    Attributes:
        folder: of the studio.
        styles: folders and files of styles besides the usual ones.
        resources: what the process takes, as options of a Ray actor.
    """

    folder: StudioFolder
    styles: tuple[Path, ...]
    resources: dict[str, float]
    _actor: Any = field(default=None, init=False)

    def prepare(self) -> None:
        """Leave the cluster to others until there is a job."""

    def run(
        self, job: StudioJob, photo: StoredPhoto, report: Callable[..., StopRequest], waiting: Waiting = ()
    ) -> Status:
        """Make the picture of a job, see `Engine`.

        Raises:
            EngineLost: the process died.
            StylescoreError: the run failed.
        """
        return self._follow(self._started().run.remote(job, photo, waiting), report)

    def describe(self, photo: StoredPhoto) -> str:
        """Return a caption of a photo, see `Engine`."""
        import ray

        return str(ray.get(self._started().describe.remote(photo)))

    def _started(self) -> Any:
        import ray

        if self._actor is None:
            kind = ray.remote(_RemoteEngine).options(max_concurrency=THREADS, **self.resources)
            self._actor = kind.remote(self.folder, self.styles)
        return self._actor

    def _follow(self, ending: Any, report: Callable[..., StopRequest]) -> Status:
        """Pass on what the process reports, and how the user wants the run to end, until it has ended."""
        import ray
        from ray.exceptions import RayActorError

        requested, news, has_begun = _passed_on(report, {"stage": WAITING}), None, False
        try:
            while True:
                news = self._actor.exchange.remote(requested) if news is None else news
                ended, _ = ray.wait([ending], timeout=SECONDS_BETWEEN_LOOKS)
                fields = {}
                if ray.wait([news], timeout=0)[0]:
                    fields, news, has_begun = ray.get(news), None, True
                requested = None if requested is None else _passed_on(report, fields)
                if ended:
                    status = _received(ray.get(ending))
                    for last in ([] if news is None else [news]) + [self._actor.exchange.remote(requested)]:
                        _passed_on(report, ray.get(last))
                    return status
                if not has_begun and requested in UNBEGUN:
                    self.close()
                    return UNBEGUN[requested]
        except RayActorError as error:
            self._actor = None
            raise EngineLost from error

    def close(self) -> None:
        """End the process."""
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None


def _passed_on(report: Callable[..., StopRequest], fields: dict[str, Any]) -> StopRequest | None:
    """Report, and return how the user wants the run to end; `None` if the worker is to end."""
    try:
        return report(**fields)
    except Stopped:
        return None


def _received(result: Status | StylescoreError) -> Status:
    if isinstance(result, StylescoreError):
        raise result
    return result


class _RemoteEngine:
    """The process on the cluster: one thread makes a picture, another exchanges messages about it."""

    def __init__(self, folder: StudioFolder, styles: tuple[Path, ...]) -> None:
        self._engine = LazyEngine(folder, "auto", styles)
        self._lock = threading.Lock()
        self._fields: dict[str, Any] = {}
        self._requested: StopRequest | None = ""

    def run(self, job: StudioJob, photo: StoredPhoto, waiting: Waiting = ()) -> Status | StylescoreError:
        """Make the picture of a job; return how it ended, or why it failed."""
        with self._lock:
            self._requested, self._fields = "", {}
        try:
            return self._engine.run(job, photo, self._report, waiting)
        except Stopped:
            return "queued"
        except StylescoreError as error:
            return error

    def describe(self, photo: StoredPhoto) -> str:
        """Return a caption of a photo."""
        return self._engine.describe(photo)

    def exchange(self, requested: StopRequest | None) -> dict[str, Any]:
        """Take how the run is to end, `None` for at once with its state saved; return what is new of it."""
        with self._lock:
            self._requested = requested
            fields, self._fields = self._fields, {}
        return fields

    def _report(self, **fields: Any) -> StopRequest:
        with self._lock:
            drafts = [*self._fields.get("drafts", ()), *fields.get("drafts", ())]
            self._fields |= fields | ({"drafts": drafts} if drafts else {})
            if self._requested is None:
                raise Stopped
            return self._requested
