"""Starts the studio: address, token, folder, browser; and ends its workers."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from stylescore.catalog.registry import resolve_model
from stylescore.config.ranges import check_machine, check_port, check_texts
from stylescore.errors import ConfigError, OutputError
from stylescore.runs.lock import InUseError, hold
from stylescore.runs.workers import parse_workers
from stylescore.storage.texts import is_folder
from stylescore.studio.drafts import Drafts
from stylescore.studio.folder import StudioFolder
from stylescore.studio.guard import Access, is_loopback
from stylescore.studio.jobs import CLUSTER, STOP, JobStore
from stylescore.studio.limits import MIB, Limits
from stylescore.studio.server import Studio, make_app
from stylescore.studio.style_list import StyleList
from stylescore.studio.supervisor import Supervisor

PORT = 8188
PORTS_TRIED = 20
"""So many ports are tried, from the usual one up, where none was chosen."""
SHORTEST_TOKEN = 16
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """How the studio is started.

    Attributes:
        folder: of photos, runs and the queue.
        host: where it listens.
        port: `None` takes the usual one, or the next that is free.
        token: `None` draws one where others can reach the server, and takes none else.
        styles: folders and files of styles besides the usual ones.
        model: base model of all jobs.
        devices: one worker for each; on a cluster none is named.
        workers: `ray` or `ray:N`, to make the pictures on a Ray cluster.
        storage: largest size of the folder in MiB.
        browser: whether the page is opened in a browser.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int | None = None
    token: str | None = None
    styles: Sequence[Path] = ()
    model: str = "mini"
    devices: Sequence[str] = ()
    workers: str | None = None
    storage: int = 10_240
    browser: bool = True


def serve(options: StudioOptions, say: Callable[[str], object]) -> None:
    """Serve until the program is interrupted.

    Args:
        options: how.
        say: prints a line for the user.

    Raises:
        InputError: an option that cannot be used, or a folder that another server holds.
    """
    token = _choose_token(options)
    model = resolve_model(options.model).reference
    places = [place.absolute() for place in options.styles]
    style_list = StyleList(places, model=options.model)
    devices = _choose_devices(options)
    check_machine("--host", options.host)
    check_texts({"--data": str(options.folder)})
    check_port(options.port or 0)
    with _listen(options) as listener, _held(StudioFolder.make(options.folder)) as folder:
        limits = Limits(storage_bytes=options.storage * MIB)
        store = JobStore(folder.database, limits)
        folder.keep_only(*store.sweep())
        supervisor = Supervisor(folder, store, devices, options.styles, options.workers)
        drafts = Drafts(folder, places, model=options.model)
        studio = Studio(folder, store, style_list, model, limits, supervisor, drafts)
        app = make_app(studio, Access(options.host, token, limits))
        address = _address(options.host, listener.getsockname()[1])
        (folder.server / "address").write_text(address, encoding="utf-8")
        opened = f"{address}/" if token is None else f"{address}/?token={token}"
        say(f"studio: {opened}")
        say(f"photos and pictures are kept in {folder.path}; Ctrl-C ends the studio")
        if options.browser and _has_browser():
            threading.Thread(target=webbrowser.open, args=(opened,), daemon=True).start()
        _run(app, listener)
        if store.has_work():
            say("pictures in the queue are still made in the background; stylescore studio --stop ends that")


def stop_workers(path: Path) -> None:
    """Ask the workers of a studio's folder to save their runs and end; a later studio goes on with them.

    Raises:
        ConfigError: there is no studio.
        OutputError: the studio is served, and would start them again.
    """
    if not is_folder(StudioFolder(path).runs):
        raise ConfigError(f"there is no studio in {str(path)!r}", hint="name its folder with --data")
    with _held(StudioFolder.make(path)) as folder:
        JobStore(folder.database).mark(STOP)


def _run(app: object, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def _held(folder: StudioFolder) -> Iterator[StudioFolder]:
    """Hold the folder as its only server, and yield it."""
    folder.server.mkdir(exist_ok=True)
    try:
        with hold(folder.server):
            yield folder
    except InUseError as error:
        address = folder.server / "address"
        where = address.read_text(encoding="utf-8") if address.is_file() else "another address"
        raise OutputError(
            f"a studio with the folder {str(folder.path)!r} runs already, at {where}",
            hint="open that, or name another folder with --data",
        ) from error


@contextlib.contextmanager
def _listen(options: StudioOptions) -> Iterator[socket.socket]:
    """Yield a socket that listens at the host and the port, or at the first port that is free."""
    first = PORT if options.port is None else options.port
    tries = PORTS_TRIED if options.port is None else 1
    for port in range(first, first + tries):
        try:
            family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
            listener = socket.create_server((options.host, port), family=family, backlog=128)
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (while attempting")[0]
            continue
        with listener:
            yield listener
        return
    raise OutputError(
        f"the studio cannot listen at {options.host}:{first}: {reason}", hint="choose another --port or --host"
    )


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _choose_token(options: StudioOptions) -> str | None:
    if options.token is not None and not _TOKEN.fullmatch(options.token):
        raise ConfigError(
            f"--token must have {SHORTEST_TOKEN} to 128 letters, digits, - or _", hint="leave it out to have one drawn"
        )
    if options.token is None and not is_loopback(options.host):
        return secrets.token_urlsafe(24)
    return options.token


def _choose_devices(options: StudioOptions) -> Sequence[str]:
    devices = options.devices
    if parse_workers(options.workers) is not None:
        if devices:
            raise ConfigError(
                "--device chooses among this machine's devices, with --workers the cluster does", hint="leave out one"
            )
        return (CLUSTER,)
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ConfigError(f"--device must be auto, cpu, cuda, cuda:N or mps, not {device!r}", hint="leave it out")
    if len(set(devices)) != len(devices):
        raise ConfigError("--device names a device twice", hint="name each one once")
    return devices or ("auto",)


def _has_browser() -> bool:
    """Return whether there is a screen; else a browser of the terminal would open in it."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
