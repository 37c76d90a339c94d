"""The studio's server: the page, its requests, and the stream of what changes. It imports no torch."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote as quote_url
from urllib.parse import unquote

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from stylescore._version import __version__
from stylescore.catalog.hub import CAPTION_MODELS, cached_transformer
from stylescore.config.ranges import METHOD_RULES
from stylescore.errors import ConfigError, InputError, StylescoreError
from stylescore.storage.texts import parse_json
from stylescore.studio.archive import stream_archive
from stylescore.studio.drafts import Drafts
from stylescore.studio.folder import StudioFolder
from stylescore.studio.guard import Access, BodyTooLargeError, Guard
from stylescore.studio.jobs import JobStore, StoredPhoto, StudioJob, UnknownError
from stylescore.studio.limits import LimitError, Limits
from stylescore.studio.masks import find_mask, require_something_to_stylize, save_mask
from stylescore.studio.settings import (
    Settings,
    has_mask,
    make_job_run,
    photo_hash,
    preset_constants,
    read_settings,
    settings_of_record,
)
from stylescore.studio.style_list import ListedStyle, StyleList
from stylescore.studio.supervisor import Supervisor
from stylescore.studio.uploads import Uploads, view_of

STATIC = Path(__file__).parent / "static"
PAGE = "index.html"
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
SECONDS_BETWEEN_LOOKS = 0.3
SECONDS_BETWEEN_SIGNS = 15.0
"""A stream says something at least so often, so that a broken connection is noticed."""
MOST_PHOTOS = 200
"""Photos that one request may begin."""
STORAGE_SECONDS = 5.0
"""The size of the studio's folder is counted anew at most so often."""
NO_PICTURE = UnknownError("there is no such picture yet", hint="it may have been removed")
PRIVATE = {"Cache-Control": "private, max-age=31536000, immutable"}


@dataclass
class Studio:
    """What the requests work on.

    Attributes:
        folder: photos and runs.
        store: photos and jobs.
        style_list: the styles.
        model: the base model of all jobs.
        limits: what is accepted.
        supervisor: starts the workers; `None` where something else takes jobs.
        drafts: makes drafts with generators; `None` makes none.
    """

    folder: StudioFolder
    store: JobStore
    style_list: StyleList
    model: str
    limits: Limits = field(default_factory=Limits)
    supervisor: Supervisor | None = None
    drafts: Drafts | None = None
    closing: threading.Event = field(default_factory=threading.Event)
    _size: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.folder, self.store, self.limits)
        self.streams: Counter[str] = Counter()
        self.decoding = asyncio.Semaphore(self.limits.decoders)

    def storage(self, *, anew: bool = False) -> int:
        """Return the size of the folder in bytes, a few seconds old."""
        counted, size = self._size
        if anew or time.monotonic() - counted > STORAGE_SECONDS or not counted:
            size = self.folder.size()
            self._size = (time.monotonic(), size)
        return size

    def require_room(self) -> None:
        """Raise `LimitError` if the studio's folder is full."""
        if self.storage() >= self.limits.storage_bytes:
            most = self.limits.storage_bytes // 2**20
            raise LimitError(f"the studio's folder has reached its {most:,} MiB", hint="clear the history", status=507)


def make_app(studio: Studio, access: Access) -> FastAPI:
    """Return the application; nothing is computed in it."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=_lifespan(studio))
    app.state.studio = studio
    _add_page(app)
    _add_photo_layers(app, studio)
    _add_captions(app, studio)
    _add_photos(app, studio)
    _add_jobs(app, studio)
    _add_state(app, studio)
    app.add_exception_handler(StylescoreError, _answer_error)
    app.add_exception_handler(BodyTooLargeError, _answer_too_large)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Guard, access=access)
    return app


def _lifespan(studio: Studio) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        if studio.supervisor is not None:
            studio.supervisor.start()
        yield
        studio.closing.set()
        if studio.supervisor is not None:
            await run_in_threadpool(studio.supervisor.close)

    return lifespan


def _add_page(app: FastAPI) -> None:
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in MEDIA}

    @app.get("/")
    def page() -> Response:
        return _static(files[PAGE])

    @app.get("/static/{name:path}")
    def static(name: str) -> Response:
        if name not in files:  # looked up, never opened: no name leads out of the folder
            raise UnknownError("there is no such file")
        return _static(files[name])


def _static(path: Path) -> Response:
    return FileResponse(path, media_type=MEDIA[path.suffix], headers={"Cache-Control": "no-cache"})


def _add_photos(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/photos")
    async def upload(request: Request) -> Any:
        await run_in_threadpool(studio.require_room)
        file = studio.uploads.new_file()
        try:
            await _receive(request, file)
            async with studio.decoding:  # waits here and in no thread, so that the page is answered meanwhile
                return await run_in_threadpool(_take, studio, request, file)
        finally:
            file.unlink(missing_ok=True)

    @app.get("/api/photos/{key}/{kind}")
    def photo(request: Request, key: str, kind: str) -> Response:
        stored = studio.store.photo(request.scope["session"], key)
        place = studio.folder.photo(stored.id)
        match kind:
            case "view":
                return _picture(view_of(place))
            case "thumb":
                return _picture(place / "thumb.webp")
        raise UnknownError("a photo has a view and a thumb")

    @app.delete("/api/photos/{key}")
    def remove(request: Request, key: str) -> Any:
        if studio.store.remove_photo(request.scope["session"], key):
            studio.folder.remove_photo(key)
        return {}


def _add_photo_layers(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/photos/{key}/masks")
    async def paint(request: Request, key: str) -> Any:
        await run_in_threadpool(studio.require_room)
        photo = await run_in_threadpool(studio.store.photo, request.scope["session"], key)
        file = studio.uploads.new_file()
        try:
            await _receive(request, file)
            async with studio.decoding:
                return {"mask": await run_in_threadpool(save_mask, studio.folder, studio.store, photo, file)}
        finally:
            file.unlink(missing_ok=True)

    @app.get("/api/photos/{key}/masks/{mask}")
    def mask(request: Request, key: str, mask: str) -> Response:
        return _picture(find_mask(studio.folder, studio.store.photo(request.scope["session"], key), mask))

    @app.get("/api/photos/{key}/drafts/{style}")
    def draft(request: Request, key: str, style: str) -> Response:
        photo = studio.store.photo(request.scope["session"], key)
        if studio.drafts is None:
            raise NO_PICTURE
        return _picture(studio.drafts.draft(photo, style))


def _add_captions(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/photos/{key}/caption")
    def want_caption(request: Request, key: str) -> Any:
        available = any(cached_transformer(hub_id) is not None for hub_id in CAPTION_MODELS)
        if available:
            studio.store.want_caption(request.scope["session"], key)
            if studio.supervisor is not None:
                studio.supervisor.want()
        return {"available": available}

    @app.get("/api/photos/{key}/caption")
    def caption(request: Request, key: str) -> Any:
        photo = studio.store.photo(request.scope["session"], key)
        return {"caption": photo.caption, "waiting": photo.caption_wanted}


async def _receive(request: Request, file: Path) -> None:
    """Write a request's body to a file, without holding it in memory."""
    with file.open("wb") as target:
        async for chunk in request.stream():
            await run_in_threadpool(target.write, chunk)


def _take(studio: Studio, request: Request, file: Path) -> dict[str, Any]:
    """Store an upload, or return the settings it brings."""
    session, name = request.scope["session"], unquote(request.headers.get("x-name", "photo"))
    as_photo = request.query_params.get("as") == "photo"
    upload = studio.uploads.take(session, file, name, as_photo=as_photo)
    if studio.supervisor is not None:
        studio.supervisor.want()
    if upload.photo is not None:
        return {"photo": _show_photo(upload.photo)}
    assert upload.record is not None
    settings, notes = settings_of_record(upload.record, studio.style_list, studio.model)
    digest = photo_hash(upload.record)
    known = None if digest is None else studio.store.find_photo(session, digest)
    if known is not None and not known.listed:
        known = studio.store.list_photo(session, known.id)
    if has_mask(upload.record) and not _is_painted(studio, known, settings.mask):
        settings, notes = replace(settings, mask=None), [*notes, "its mask is not in this studio any more"]
    return {
        "settings": asdict(settings),
        "notes": notes,
        "photo": None if known is None else _show_photo(known),
    }


def _is_painted(studio: Studio, photo: StoredPhoto | None, mask: str | None) -> bool:
    """Return whether the studio has a mask of a photo."""
    return photo is not None and mask is not None and studio.folder.mask(photo.id, mask).is_file()


def _add_jobs(app: FastAPI, studio: Studio) -> None:
    @app.post("/api/jobs")
    async def add(request: Request) -> Any:
        table = await _read_table(request)
        return await run_in_threadpool(_add, studio, request.scope["session"], table)

    @app.post("/api/cancel")
    def cancel(request: Request) -> Any:
        return {"jobs": [_show_job(job) for job in studio.store.cancel_waiting(request.scope["session"])]}

    @app.post("/api/jobs/{key}/{action}")
    def act(request: Request, key: str, action: str) -> Any:
        return _show_job(_act(studio, request.scope["session"], key, action))

    @app.delete("/api/jobs/{key}")
    def remove(request: Request, key: str) -> Any:
        unused = studio.store.remove(request.scope["session"], key)
        studio.folder.remove_run(key)
        if unused is not None:
            studio.folder.remove_photo(unused)
        return {}

    @app.get("/api/archive")
    def archive(request: Request) -> Response:
        return _archive(studio, request.scope["session"], request.query_params.getlist("job"))

    @app.get("/api/jobs/{key}/{kind}")
    def show(request: Request, key: str, kind: str) -> Response:
        return _show_picture(studio, studio.store.job(request.scope["session"], key), kind)


def _act(studio: Studio, session: str, key: str, action: str) -> StudioJob:
    match action:
        case "stop" | "cancel":
            return studio.store.request(session, key, action)
        case "resume":
            studio.require_room()
            return studio.store.resume(session, key)
    raise UnknownError("a picture can stop, cancel or resume")


def _show_picture(studio: Studio, job: StudioJob, kind: str) -> Response:
    place = studio.folder.run(job.id)
    match kind:
        case "view":
            return _picture(view_of(place))
        case "picture":
            return _download(studio, job)
        case "thumb" | "preview" | "draft":
            return _picture(place / f"{kind}.webp")
        case "relevance":
            return _picture(place / "relevance.png")
    raise UnknownError("a picture has view, thumb, preview, draft, relevance and picture")


def _add(studio: Studio, session: str, table: Mapping[str, Any]) -> dict[str, Any]:
    studio.require_room()
    settings, photos = read_settings(table.get("settings")), table.get("photos")
    if not isinstance(photos, list) or not 0 < len(photos) <= MOST_PHOTOS or not all(map(_is_text, photos)):
        raise ConfigError(f"a request needs 1 to {MOST_PHOTOS} photos", hint="choose some")
    make_job_run(settings, studio.style_list, studio.model)
    masks = _read_masks(studio, session, settings, photos, table.get("masks", {}))
    own = table.get("own_captions") is True
    jobs = studio.store.add_jobs(session, photos, settings, studio.model, masks, own_captions=own)
    return {"jobs": [_show_job(job) for job in jobs]}


def _read_masks(studio: Studio, session: str, settings: Settings, photos: list[str], table: Any) -> dict[str, str]:
    """Return the masks of the photos of a request, which are there and leave something to stylize."""
    if settings.mask is not None or not isinstance(table, Mapping) or not all(map(_is_text, table.values())):
        raise ConfigError("masks must be a table from photos to their masks", hint='send "masks": {photo: mask}')
    masks = {photo: table[photo] for photo in photos if photo in table}
    for key, mask in masks.items():
        photo = studio.store.photo(session, key)
        require_something_to_stylize(find_mask(studio.folder, photo, mask), photo)
    return masks


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _download(studio: Studio, job: StudioJob) -> Response:
    """Return the picture as PNG at the photo's size, with its recipe inside."""
    name, path = _picture_file(studio, job)
    if not path.is_file():
        raise NO_PICTURE
    return FileResponse(path, media_type=MEDIA[path.suffix], headers=_attachment(name))


def _archive(studio: Studio, session: str, keys: list[str]) -> Response:
    """Return the pictures of some jobs, or of all, as an archive; jobs without a picture are left out of all."""
    jobs = [studio.store.job(session, key) for key in keys] or studio.store.jobs(session)
    files = [_picture_file(studio, job) for job in jobs]
    made = [(name, path) for name, path in files if path.is_file()]
    if not made or (keys and len(made) < len(files)):
        raise NO_PICTURE
    return StreamingResponse(stream_archive(made), media_type="application/zip", headers=_attachment("pictures.zip"))


def _picture_file(studio: Studio, job: StudioJob) -> tuple[str, Path]:
    """Return the name under which a job's picture is saved, and where it is, if it is there."""
    place = studio.folder.run(job.id)
    finished = None if job.folder is None else place / job.folder / "picture.png"
    path = finished if finished is not None and finished.is_file() else place / "stopped.png"
    photo = studio.store.photo(job.session, job.photo)
    return f"{Path(photo.name).stem}-{'-'.join(job.settings.weights)}.png", path


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote_url(name)}"}


def _picture(path: Path) -> Response:
    """Return a picture that the page shows; it is read at once, as a worker may replace it at any time."""
    try:
        content = path.read_bytes()
    except OSError:
        raise NO_PICTURE from None
    return Response(content, media_type=MEDIA[path.suffix], headers=dict(PRIVATE))


def _add_state(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/state")
    def state(request: Request) -> Any:
        session = request.scope["session"]
        return {
            "version": __version__,
            "model": Path(studio.model).name,
            "styles": _show_styles(studio),
            "photos": [_show_photo(photo) for photo in studio.store.photos(session)],
            "jobs": [_show_job(job) for job in studio.store.jobs(session)],
            "storage": {"used": studio.storage(), "most": studio.limits.storage_bytes},
            "limits": {"upload_bytes": studio.limits.upload_bytes, "photos": MOST_PHOTOS},
            "rules": {name: rule.words for name, rule in METHOD_RULES.items()},
        }

    @app.get("/api/styles/{name}/constants")
    def constants(request: Request, name: str) -> Any:
        also = dict.fromkeys(request.query_params.getlist("also"), 1.0)
        return preset_constants(name, studio.style_list, studio.model, also)

    @app.post("/api/clear")
    def clear(request: Request) -> Any:
        photos, jobs = studio.store.clear(request.scope["session"])
        for key in photos:
            studio.folder.remove_photo(key)
        for key in jobs:
            studio.folder.remove_run(key)
        return {"storage": {"used": studio.storage(anew=True), "most": studio.limits.storage_bytes}}

    @app.get("/api/events")
    async def events(request: Request) -> Response:
        session = request.scope["session"]
        if studio.streams[session] >= studio.limits.streams:
            raise LimitError(f"a session has at most {studio.limits.streams} streams", hint="close other tabs")
        last = request.headers.get("last-event-id", request.query_params.get("after", ""))
        after = int(last) if last.isdecimal() and len(last) < 16 else 0
        return StreamingResponse(_stream(studio, session, after), media_type="text/event-stream")


async def _stream(studio: Studio, session: str, after: int) -> AsyncIterator[str]:
    """Yield what changes in a session's jobs and in the queue, as server-sent events."""
    studio.streams[session] += 1
    spoken, seen, line = 0.0, -1, None
    try:
        yield "retry: 1000\n\n"
        while not studio.closing.is_set():
            revision = await run_in_threadpool(studio.store.revision)
            if revision != seen:
                seen = revision
                jobs = await run_in_threadpool(studio.store.jobs, session, after)
                if jobs:
                    after = max(job.revision for job in jobs)
                    yield _event("jobs", [_show_job(job) for job in jobs], after)
                    spoken = time.monotonic()
                waiting = await run_in_threadpool(studio.store.line)
                places = {key: place for place, (owner, key) in enumerate(waiting, start=1) if owner == session}
                if places != line:
                    line = places
                    yield _event("line", places, after)
            if time.monotonic() - spoken > SECONDS_BETWEEN_SIGNS:
                yield ": still here\n\n"
                spoken = time.monotonic()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        studio.streams[session] -= 1


def _event(name: str, data: Any, revision: int) -> str:
    return f"id: {revision}\nevent: {name}\ndata: {json.dumps(data)}\n\n"


def _show_styles(studio: Studio) -> list[dict[str, Any]]:
    drafts = {} if studio.drafts is None else studio.drafts.versions()
    return [_show_style(style, drafts.get(style.name)) for style in studio.style_list.styles()]


def _show_style(style: ListedStyle, draft: int | None) -> dict[str, Any]:
    return {
        "name": style.name,
        "bundled": style.bundled,
        "draft": draft,
        "trigger": style.trigger,
        "base": style.base,
        "thumbnail": None if style.thumbnail is None else f"/static/styles/{style.thumbnail.name}",
    }


def _show_photo(photo: StoredPhoto) -> dict[str, Any]:
    """Return what the page needs of a photo."""
    return {
        name: getattr(photo, name)
        for name in ("id", "name", "width", "height", "notes", "created", "listed", "caption")
    }


def _show_job(job: StudioJob) -> dict[str, Any]:
    """Return what the page needs of a job."""
    table = asdict(job)
    for name in ("session", "model", "folder", "attempts", "device"):
        del table[name]
    return table


async def _read_table(request: Request) -> Mapping[str, Any]:
    """Return a request's JSON object."""
    body = await request.body()
    try:
        table = parse_json(body.decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"the request cannot be read: {error}", hint="send a JSON object") from error
    if not isinstance(table, Mapping):
        raise ConfigError("the request must be a JSON object", hint="send a JSON object")
    return table


async def _answer_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, StylescoreError)
    body = {"message": str(error), "hint": error.hint}
    return JSONResponse(body, status_code=_status(error))


def _status(error: StylescoreError) -> int:
    match error:
        case LimitError():
            return error.status
        case UnknownError():
            return 404
        case InputError():
            return 422
    return 500


async def _answer_too_large(request: Request, error: Exception) -> Response:
    del request
    return JSONResponse({"message": str(error), "hint": "send a smaller file"}, status_code=413)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": str(error.detail), "hint": None}, status_code=error.status_code)
