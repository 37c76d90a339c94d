"""Checks every request before the studio sees it: host, origin, token, session and size; sets the answer's headers."""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stylescore.studio.limits import Limits

SESSION = "stylescore_session"
TOKEN = "stylescore_token"
PAGE_HEADER = "x-stylescore"
"""Sent by the page with every change. A page from elsewhere cannot send it without asking first, which is refused."""
SAFE_METHODS = ("GET", "HEAD")
METHODS = (*SAFE_METHODS, "POST", "DELETE")
UPLOADS = "/api/photos"
MASKS = re.compile(r"/api/photos/[0-9a-f]{1,32}/masks")
YEAR = 365 * 24 * 3600
SESSION_LENGTH = 32
LONGEST_TARGET = 2048

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def is_loopback(host: str) -> bool:
    """Return whether a server that listens there is reached from its own machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def known_hosts(host: str) -> frozenset[str]:
    """Return the names by which a server may be addressed, besides numeric addresses when it listens elsewhere.

    A name of somebody else's that is made to lead here (DNS rebinding) is none of them.
    """
    names = {host, "localhost"}
    if not is_loopback(host):
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names)


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Attributes:
        host: where the server listens.
        token: what must be shown once; `None` where nobody else can reach the server.
        limits: sizes of bodies.
    """

    host: str
    token: str | None
    limits: Limits

    def knows(self, header: str) -> bool:
        """Return whether a `Host` header names this server."""
        name = _host_name(header)
        if name is None:
            return False
        if name in known_hosts(self.host):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback if is_loopback(self.host) else True

    def limit_of(self, path: str) -> int:
        """Return the largest size of the body of a request in bytes."""
        if path == UPLOADS:
            return self.limits.upload_bytes
        return self.limits.mask_bytes if MASKS.fullmatch(path) else self.limits.request_bytes

    def accepts(self, shown: str | None) -> bool:
        """Return whether a token is the right one; compared in constant time."""
        if self.token is None:
            return True
        return shown is not None and hmac.compare_digest(shown.encode(), self.token.encode())


class Guard:
    """ASGI middleware: refuses what is not for this server, and gives every browser a session."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on; its session is in `scope["session"]`."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket is served: it is closed
        headers = Headers(scope=scope)
        cookies = _cookies(headers)
        session, is_new = _session(cookies)
        scope["session"] = session
        refusal = self._refuse(scope, headers) or self._ask_token(scope, headers, cookies)
        own_send = _with_headers(send, session if is_new and refusal is None else None, scope)
        if refusal is not None:
            await refusal(scope, receive, own_send)
            return
        limit = self._access.limit_of(scope["path"])
        await self._app(scope, _limited(receive, limit), own_send)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that must not be served."""
        method, path = scope["method"], scope["path"]
        if not self._access.knows(headers.get("host", "")):
            return _error(421, "this address is not the studio's", "use the address that the program printed")
        if method not in METHODS:
            return _error(405, f"the method {method[:20]!r} is not served", "GET, POST or DELETE")
        if len(scope["raw_path"]) + len(scope["query_string"]) > LONGEST_TARGET or "\0" in path:
            return _error(414, "the address is too long or not valid", "use the page")
        if _is_foreign(headers):
            return _error(403, "the studio does not answer pages from other places", "open its own page")
        if method not in SAFE_METHODS and PAGE_HEADER not in headers:
            return _error(403, f"changes need the header {PAGE_HEADER}", "use the page")
        limit = self._access.limit_of(path)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            return _error(413, f"at most {limit:,} bytes can be sent at a time", "send a smaller file")
        return None

    def _ask_token(self, scope: Scope, headers: Headers, cookies: Mapping[str, str]) -> Response | None:
        """Return the response to a request without the token, or to the page's address with it; `None` lets it in."""
        if self._access.token is None:
            return None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if scope["path"] == "/" and self._access.accepts(query.get("token")):
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(TOKEN, self._access.token, max_age=YEAR, httponly=True, samesite="lax")
            return response
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._access.accepts(cookies.get(TOKEN)) or self._access.accepts(bearer):
            return None
        return _error(401, "this studio needs its token", "open the address that the program printed, with ?token=")


def _is_foreign(headers: Headers) -> bool:
    """Return whether a request comes from a page of another origin; opening the studio by a link is none."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    site = headers.get("sec-fetch-site", "none")
    is_opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return site not in ("same-origin", "none") and not is_opened


def _host_name(header: str) -> str | None:
    """Return the host of a `Host` header, without its port; `None` if it is not valid."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return parts.hostname


def _cookies(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        try:
            found |= {name: morsel.value for name, morsel in SimpleCookie(header).items()}
        except CookieError:
            continue
    return found


def _session(cookies: Mapping[str, str]) -> tuple[str, bool]:
    """Return a browser's session, and whether it is new."""
    known = cookies.get(SESSION, "")
    if len(known) == SESSION_LENGTH and all(letter in "0123456789abcdef" for letter in known):
        return known, False
    return secrets.token_hex(SESSION_LENGTH // 2), True


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a receiver that ends a body without a stated length once it is too long."""
    taken = 0

    async def receive_limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise BodyTooLargeError(limit)
        return message

    return receive_limited


class BodyTooLargeError(Exception):
    """A body turned out to be longer than its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"at most {limit:,} bytes can be sent at a time")


def _with_headers(send: Send, session: str | None, scope: Scope) -> Send:
    """Return a sender that adds the headers of every response, and the cookie of a new session to the page."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _fixed_headers(headers):
                headers[name] = value
            if session is not None and scope["path"] == "/":
                cookie = f"{SESSION}={session}; Max-Age={YEAR}; Path=/; HttpOnly; SameSite=Lax"
                headers.append("Set-Cookie", cookie)
        await send(message)

    return send_with_headers


def _fixed_headers(headers: MutableHeaders) -> Iterator[tuple[str, str]]:
    yield from _HEADERS.items()
    if "cache-control" not in headers:
        yield "Cache-Control", "no-store"


def _error(status: int, message: str, hint: str) -> JSONResponse:
    body: dict[str, Any] = {"message": message, "hint": hint}
    return JSONResponse(body, status_code=status)
