"""Serves the page for votes: pictures without names, requests of this page only.

A voter has a link with a secret token. Pictures are addressed by the number of a comparison and a side, never by a
path, and are encoded anew without metadata. Requests for another host (DNS rebinding), from another page or without a
token are refused.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from socket import create_server
from typing import Any

from PIL import Image

from stylescore.comparison.study import QUESTIONS, Study, Task
from stylescore.comparison.votes import Votes
from stylescore.config.ranges import check_machine, check_port
from stylescore.errors import ConfigError, OutputError, StylescoreError
from stylescore.images import read_photo
from stylescore.images.sheets import flatten_alpha

LARGEST_BODY = 4096
_FAILED = b"the server cannot answer; tell who started it"
LARGEST_SIDE = 1024
"""Longest side in pixels at which pictures are shown."""
_ROUTE = re.compile(r"/v/([\w-]{10,64})/(|state|vote|undo|style|picture/(\d{1,9})/(left|right|photo))")
_FILES = {"/vote.js": "text/javascript", "/vote.css": "text/css"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Answer:
    """A response: its status, the type of its content, and the content."""

    status: HTTPStatus
    kind: str = "text/plain; charset=utf-8"
    body: bytes = b""


def _json(value: Any) -> Answer:
    return Answer(HTTPStatus.OK, "application/json", json.dumps(value).encode())


def _refuse(status: HTTPStatus) -> Answer:
    return Answer(status, body=status.phrase.encode())


class Poll:
    """What the page asks for, apart from HTTP."""

    def __init__(self, study: Study, votes: Votes) -> None:
        self.study, self.votes = study, votes
        self._voters = votes.voters()
        self._tasks = {name: study.tasks(name) for name in self._voters.values()}

    def get(self, path: str) -> Answer:
        """Answer a GET request."""
        if path in _FILES:
            return Answer(HTTPStatus.OK, f"{_FILES[path]}; charset=utf-8", _page_file(path[1:]))
        voter, rest = self._route(path)
        match rest.split("/"):
            case _ if voter is None:
                return _refuse(HTTPStatus.NOT_FOUND)
            case [""]:
                return Answer(HTTPStatus.OK, "text/html; charset=utf-8", _page_file("vote.html"))
            case ["state"]:
                return _json(self.state(voter))
            case ["style"] if self.study.style is not None:
                return _picture(self.study.style)
            case ["picture", number, side]:
                return self._side(voter, int(number), side)
            case _:
                return _refuse(HTTPStatus.NOT_FOUND)

    def post(self, path: str, body: bytes) -> Answer:
        """Answer a POST request: a vote, or one taken back."""
        voter, rest = self._route(path)
        if voter is None or rest not in ("vote", "undo"):
            return _refuse(HTTPStatus.NOT_FOUND)
        try:
            value = json.loads(body)
            number, question = value["task"], value["question"]
            choice: Any = value["choice"] if rest == "vote" else "tie"
        except (ValueError, KeyError, TypeError, RecursionError):
            return _refuse(HTTPStatus.BAD_REQUEST)
        if not self._is_sound(voter, number, question, choice):
            return _refuse(HTTPStatus.BAD_REQUEST)
        if rest == "vote":
            self.votes.save(voter, number, self._tasks[voter][number], question, choice)
        else:
            self.votes.remove(voter, number, question)
        return _json(self.state(voter))

    def _is_sound(self, voter: str, number: Any, question: Any, choice: Any) -> bool:
        in_range = type(number) is int and 0 <= number < len(self._tasks[voter])
        known = isinstance(question, str) and question in self.study.questions
        return in_range and known and isinstance(choice, str) and choice in ("left", "right", "tie")

    def state(self, voter: str) -> dict[str, Any]:
        """Return what the page shows a voter: the first open question, and how far they are. No name of a method."""
        answered = self.votes.answered(voter)
        steps = [(n, q) for n in range(len(self._tasks[voter])) for q in self.study.questions]
        following = next((step for step in steps if step not in answered), None)
        done = steps.index(following) if following is not None else len(steps)
        return {
            "done": done,
            "total": len(steps),
            "current": None if following is None else self._step(voter, *following),
            "previous": None if done == 0 else {"task": steps[done - 1][0], "question": steps[done - 1][1]},
            "has_style": self.study.style is not None,
        }

    def _step(self, voter: str, number: int, question: str) -> dict[str, Any]:
        photo = self._tasks[voter][number].photo in self.study.photos
        return {"task": number, "question": question, "text": QUESTIONS[question], "has_photo": photo}

    def _route(self, path: str) -> tuple[str | None, str]:
        """Return the voter of a link, `None` for an unknown one, and what is asked for."""
        match = _ROUTE.fullmatch(path)
        return (self._voters.get(match[1]), match[2]) if match else (None, "")

    def _side(self, voter: str, number: int, side: str) -> Answer:
        tasks = self._tasks[voter]
        path = _path_of(self.study, tasks[number], side) if number < len(tasks) else None
        return _refuse(HTTPStatus.NOT_FOUND) if path is None else _picture(path)


def _path_of(study: Study, task: Task, side: str) -> Path | None:
    match side:
        case "left":
            return study.results[task.left][task.photo]
        case "right":
            return study.results[task.right][task.photo]
        case _:
            return study.photos.get(task.photo)


def _page_file(name: str) -> bytes:
    return files("stylescore.comparison").joinpath("page", name).read_bytes()


@lru_cache(maxsize=16)
def _encode(path: Path) -> bytes:
    """Return a picture as PNG, at most 1024 pixels long, without its metadata and its file's name."""
    photo = read_photo(path)
    whole = photo.picture if photo.alpha is None else Image.merge("RGBA", (*photo.picture.split(), photo.alpha))
    picture = flatten_alpha(whole)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    bare, out = Image.new("RGB", picture.size), io.BytesIO()
    bare.paste(picture)
    bare.save(out, format="PNG", compress_level=1)
    return out.getvalue()


def _picture(path: Path) -> Answer:
    return Answer(HTTPStatus.OK, "image/png", _encode(path))


class _Handler(BaseHTTPRequestHandler):
    """Checks where a request comes from, and passes it to the poll."""

    server: PollServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "stylescore", ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(lambda: self.server.poll.get(self.path))

    def do_POST(self) -> None:
        self._answer(self._post)

    def _post(self) -> Answer:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            self.close_connection = True
            return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            return _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        return self.server.poll.post(self.path, body)

    def _answer(self, make: Callable[[], Answer]) -> None:
        if not self._is_ours():
            self.close_connection = True
            self._send(_refuse(HTTPStatus.FORBIDDEN))
            return
        try:
            answer = make()
        except StylescoreError as error:
            self.server.failures.append(error)
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, body=_FAILED)
        self._send(answer)

    def _is_ours(self) -> bool:
        """Return whether a request is meant for this server and comes from its page, if from any."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        is_page = origin is None or origin in {f"http://{name}" for name in self.server.hosts}
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        is_followed_link = self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        return host.lower() in self.server.hosts and is_page and (site in ("same-origin", "none") or is_followed_link)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {**_HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: links are secrets."""


class PollServer(ThreadingHTTPServer):
    """The server of a study.

    Attributes:
        poll: what it answers with.
        hosts: values of the Host header that it accepts.
        failures: errors that voters met, such as a picture that was deleted meanwhile.
    """

    daemon_threads = True

    def __init__(self, poll: Poll, host: str, port: int, address: str | None = None) -> None:
        """Listen at once.

        Args:
            poll: answers requests.
            host: address to listen on.
            port: 0 for a free one.
            address: how voters reach it, if that is another name than `host`.

        Raises:
            OutputError: the system refuses, for example since the port is taken.
        """
        with _listening(host, port):
            super().__init__((host, port), _Handler)
        self.poll = poll
        self.failures: deque[StylescoreError] = deque(maxlen=10)
        names = {host, address or host, *(("localhost", "127.0.0.1") if is_loopback(host) else ())}
        self.hosts = frozenset(f"{name}:{self.server_port}".lower() for name in names)
        self.address = f"{address or host}:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore that a browser closed its connection; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def links(self) -> Mapping[str, str]:
        """Return the link of each voter."""
        return {name: f"http://{self.address}/v/{token}/" for token, name in self.poll.votes.voters().items()}


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_listening(host: str, port: int) -> None:
    """Raise an error if a port cannot be listened on, so that no file of votes is made for it.

    Raises:
        ConfigError: there is no such port.
        OutputError: the system refuses.
    """
    check_port(port)
    with _listening(host, port), create_server((host, port)):
        pass


@contextmanager
def _listening(host: str, port: int) -> Iterator[None]:
    """Raise `OutputError` if the system refuses to listen."""
    try:
        yield
    except (OSError, OverflowError) as error:
        raise OutputError(f"cannot listen on {host}:{port}: {error}", hint="choose another --port or --host") from error


def check_host(host: str, address: str | None) -> None:
    """Raise `ConfigError` for an address that cannot stand in a link, or stands for all of a machine's.

    For the latter it must be said how the machine is reached.
    """
    for option, name in (("--host", host or None), ("--address", address)):
        if name is not None:
            check_machine(option, name)
    try:
        is_any = host == "" or ip_address(host).is_unspecified
    except ValueError:
        is_any = False
    if is_any and address is None:
        raise ConfigError(
            f"--host {host or '(empty)'} needs --address, the name or number by which voters reach this machine",
            hint="for example --host 0.0.0.0 --address 192.168.1.5",
        )
