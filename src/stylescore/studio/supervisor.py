"""Keeps one worker per device running while there are jobs, whoever started it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stylescore.errors import OutputError
from stylescore.runs.lock import InUseError, hold
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import SERVER, JobStore

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_BEATS = 5.0
LARGEST_LOG = 2**20
"""Bytes of a worker's log above which the next worker begins a new one."""


class Supervisor:
    """Starts workers; they are sessions of their own, so that they outlive the server."""

    def __init__(
        self,
        folder: StudioFolder,
        store: JobStore,
        devices: Sequence[str],
        styles: Sequence[Path],
        workers: str | None = None,
    ) -> None:
        """Look after the workers of these devices.

        Args:
            folder: of the studio.
            store: its queue.
            devices: one worker for each.
            styles: folders and files of styles besides the usual ones.
            workers: what `--workers` says, where the only device is a cluster.
        """
        self._workers = workers
        self._folder, self._store, self._devices, self._styles = folder, store, tuple(devices), tuple(styles)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ended = threading.Event()
        self._wanted = threading.Event()
        self._beaten = 0.0
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin to look after the workers, in a thread; jobs of killed workers on other devices are given back."""
        for device in self._store.busy_devices() - set(self._devices):
            if not self._has_worker(device):
                self._store.recover(device)
        self._thread.start()

    def close(self) -> None:
        """Stop looking after the workers; they go on."""
        self._ended.set()
        self._thread.join(timeout=2 * SECONDS_BETWEEN_LOOKS)

    def want(self) -> None:
        """Start the workers now, as there will be a job soon."""
        self._wanted.set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            if time.monotonic() - self._beaten > SECONDS_BETWEEN_BEATS:
                self._store.mark(SERVER)
                self._beaten = time.monotonic()
            if self._wanted.is_set() or self._store.has_work():
                self._wanted.clear()
                for device in self._devices:
                    if not self._has_worker(device):
                        self._children[device] = self._spawn(device)
            self._wanted.wait(SECONDS_BETWEEN_LOOKS)

    def _has_worker(self, device: str) -> bool:
        child = self._children.get(device)
        if child is not None and child.poll() is None:
            return True
        place = self._folder.worker(device)
        place.mkdir(exist_ok=True)
        try:
            with hold(place):
                return False
        except InUseError:
            return True

    def _spawn(self, device: str) -> subprocess.Popen[bytes]:
        log = self._folder.worker(device) / "log.txt"
        with suppress(OSError):
            if log.stat().st_size > LARGEST_LOG:
                log.unlink()
        styles = [word for place in self._styles for word in ("--styles", str(place.absolute()))]
        command = [sys.executable, "-m", "stylescore.studio.worker", "--data", str(self._folder.path.absolute())]
        cluster = [] if self._workers is None else ["--workers", self._workers]
        try:
            with log.open("ab") as output:
                return subprocess.Popen(
                    [*command, "--device", device, *styles, *cluster],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise OutputError(f"the worker cannot be started: {error}", hint="is there enough memory?") from error
