"""A studio on loopback: the real server, with an engine that draws at once instead of computing."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import uvicorn

from stylescore.images import read_photo, save_png
from stylescore.studio.drafts import Drafts
from stylescore.studio.folder import StudioFolder
from stylescore.studio.guard import Access
from stylescore.studio.jobs import JobStore, Status, StoredPhoto, StudioJob
from stylescore.studio.limits import Limits
from stylescore.studio.server import Studio, make_app
from stylescore.studio.settings import RECORD_KEY
from stylescore.studio.style_list import StyleList
from stylescore.studio.uploads import save_views
from stylescore.studio.worker import Worker
from stylescore_apply.storage.files import atomic

SECONDS = 30.0


@dataclass
class DrawingEngine:
    """Inverts the photo step by step; as slow as a test needs, and held before a step for as long as it needs."""

    folder: StudioFolder
    seconds: float = 0.0
    iterations: int = 4
    made: list[str] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)
    held_step: int = 1
    drafts: bool = False

    def __post_init__(self) -> None:
        self.hold.set()

    def prepare(self) -> None:
        return

    def run(self, job: StudioJob, photo: StoredPhoto, report: Callable[..., Any], waiting: Any = ()) -> Status:
        place = self.folder.run(job.id)
        (place / "run").mkdir(parents=True, exist_ok=True)
        picture = read_photo(self.folder.photo(photo.id) / photo.file).picture
        result = ImageOps.invert(picture)
        if self.drafts:
            ImageOps.mirror(picture).save(place / "draft.webp")
        report(folder="run", stage=None, total=self.iterations, draft=self.drafts)
        for done in range(job.iteration + 1, self.iterations + 1):
            while done >= self.held_step and not self.hold.wait(0.02):
                if requested := report():
                    return self._stop(place, picture, requested)
            time.sleep(self.seconds)
            with atomic(place / "preview.webp") as temporary:
                Image.blend(picture, result, done / self.iterations).save(temporary, format="WEBP")
            left = (self.iterations - done) * self.seconds
            requested = report(iteration=done, seconds_left=left, preview=done)
            if requested and done < self.iterations:
                return self._stop(place, picture, requested)
        save_png(result, place / "run" / "picture.png", {RECORD_KEY: 'command = "stylize"\n'})
        save_views(result, place)
        self.made.append(job.id)
        return "done"

    def describe(self, photo: StoredPhoto) -> str:
        return f"a photo called {photo.name}"

    def _stop(self, place: Path, picture: Image.Image, requested: str) -> Status:
        if requested == "cancel":
            return "cancelled"
        save_png(picture, place / "stopped.png")
        save_views(picture, place)
        return "stopped"


@dataclass(frozen=True)
class Answer:
    """A response, read."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One browser: it keeps its cookies and sends what the page sends."""

    port: int
    host: str = "127.0.0.1"
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, page: bool = True
    ) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if page and method != "GET":
            sent["X-Stylescore"] = "page"
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent |= headers or {}
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def open(self) -> Client:
        assert self.ask("GET", "/").status == 200
        return self

    def upload(self, picture: bytes, name: str = "photo.png") -> str:
        answer = self.ask("POST", "/api/photos", picture, {"X-Name": name})
        assert answer.status == 200, answer.body
        return str(answer.json["photo"]["id"])

    def begin(self, *photos: str, **settings: Any) -> list[dict[str, Any]]:
        masks = settings.pop("masks", {})
        table = {"photos": photos, "settings": {"style": "van-gogh", **settings}, "masks": masks}
        answer = self.ask("POST", "/api/jobs", table)
        assert answer.status == 200, answer.body
        return list(answer.json["jobs"])

    def job(self, key: str) -> dict[str, Any]:
        return next(job for job in self.ask("GET", "/api/state").json["jobs"] if job["id"] == key)

    def wait(self, key: str, *statuses: str) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            job = self.job(key)
            if job["status"] in (statuses or ("done",)):
                return job
            time.sleep(0.05)
        raise AssertionError(f"{key} is still {job['status']}")


@dataclass
class Running:
    """A studio that is served."""

    studio: Studio
    engine: DrawingEngine
    port: int
    worker: Worker
    end: Callable[[], None]

    def client(self) -> Client:
        return Client(self.port).open()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def draw(colour: Any = (200, 120, 40), size: tuple[int, int] = (96, 64), **options: Any) -> bytes:
    """Return the bytes of a picture."""
    target = io.BytesIO()
    picture = Image.radial_gradient("L").resize(size).convert("RGB")
    tinted = Image.blend(picture, Image.new("RGB", size, colour), 0.5)
    tinted.save(target, **{"format": "PNG", **options})
    return target.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    return draw


@pytest.fixture
def folder(tmp_path: Path) -> StudioFolder:
    return StudioFolder.make(tmp_path / "studio")


def start(
    folder: StudioFolder,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    styles: tuple[Path, ...] = (),
    works: bool = True,
) -> Running:
    """Serve a studio, and let a worker draw for it unless `works` is false."""
    limits = limits or Limits()
    store = JobStore(folder.database, limits)
    engine = DrawingEngine(folder)
    worker = Worker(store, "cpu", engine)
    worker._has_server = lambda: True  # type: ignore[method-assign] - without a supervisor nobody says so
    studio = Studio(folder, store, StyleList(styles), "mini", limits, drafts=Drafts(folder, styles))
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(studio, Access("127.0.0.1", token, limits))
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    threads = [threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)]
    if works:
        threads.append(threading.Thread(target=worker.work, daemon=True))
    for thread in threads:
        thread.start()

    def end() -> None:
        server.should_exit = True
        studio.closing.set()
        engine.hold.set()
        worker.stopping.set()
        for thread in threads:
            thread.join(timeout=SECONDS)
        listener.close()

    while not server.started:
        time.sleep(0.01)
    return Running(studio, engine, listener.getsockname()[1], worker, end)


@pytest.fixture(autouse=True, scope="module")
def own_styles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the styles of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STYLESCORE_STYLES", str(tmp_path_factory.mktemp("styles")))
        yield


@pytest.fixture
def serve(folder: StudioFolder) -> Iterator[Callable[..., Running]]:
    """Return a function that serves the studio; several calls are several servers on one folder."""
    started: list[Running] = []

    def begin(**options: Any) -> Running:
        started.append(start(folder, **options))
        return started[-1]

    yield begin
    for running in started:
        running.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A studio that the tests of a module share."""
    started = start(StudioFolder.make(tmp_path_factory.mktemp("studio")))
    yield started
    started.end()


@pytest.fixture
def browser_client() -> Callable[[int], Client]:
    """Return a maker of clients that have opened nothing yet."""
    return Client
