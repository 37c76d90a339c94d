"""Requests that do not come from the studio's own page, or try to reach what is not theirs."""

from __future__ import annotations

import io
import re
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylescore.errors import StyleError
from stylescore.studio.guard import Access, is_loopback
from stylescore.studio.limits import Limits
from stylescore.studio.server import STATIC
from stylescore.studio.style_list import StyleList

TOKEN = "right-token-0123456789"


def raw(port: int, text: str) -> bytes:
    """Send bytes as they are, and return all that is answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode("latin-1"))
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
            if b"\r\n\r\n" in found and b"close" not in found:
                break
    return found


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header states this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "192.168.1.5",
        "",
        "[::1",
        "a@127.0.0.1",
    ],
)
def test_another_host_is_refused(running: Any, host: str) -> None:
    answer = running.client().ask("GET", "/", headers={"Host": host.format(port=running.port)})
    assert answer.status in (400, 421)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}", "LOCALHOST"])
def test_the_own_names_are_known(running: Any, host: str) -> None:
    assert running.client().ask("GET", "/", headers={"Host": host.format(port=running.port)}).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_page_of_another_origin_is_refused(running: Any, origin: str, method: str) -> None:
    answer = running.client().ask(method, "/api/state", headers={"Origin": origin})
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_elsewhere_can_embed_nothing_but_may_link_here(running: Any, site: str) -> None:
    client = running.client()
    embedded = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    framed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    linked = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.ask("GET", "/", headers=embedded).status == 403
    assert client.ask("GET", "/", headers=framed).status == 403
    assert client.ask("GET", "/", headers=linked).status == 200


def test_a_change_without_the_pages_header_is_refused(running: Any) -> None:
    client = running.client()
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}):
        answer = client.ask("POST", "/api/clear", b"{}", headers, page=False)
        assert answer.status == 403, headers


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT"])
def test_other_methods_are_refused(running: Any, method: str) -> None:
    answer = running.client().ask(method, "/api/state", headers={"Access-Control-Request-Method": "POST"})
    assert answer.status in (400, 405)
    assert "Access-Control-Allow-Methods" not in answer.headers


TRAVERSALS = [
    "/static/../server.py",
    "/static/..%2fserver.py",
    "/static/%2e%2e/server.py",
    "/static/....//server.py",
    "/static//etc/passwd",
    "/static/styles/../../server.py",
    "/static/..\\server.py",
    "/static/index.html%00.png",
    "/api/jobs/..%2f..%2fstudio.sqlite/view",
    "/api/jobs/../../studio.sqlite/view",
    "/api/photos/..%2f..%2f..%2fetc/passwd",
    "/api/photos/%2e%2e/view",
    "/api/styles/..%2f..%2fsecret/constants",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_folders(running: Any, path: str) -> None:
    client = running.client()
    found = raw(running.port, f"GET {path} HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n")
    assert found.split(b" ", 2)[1] in (b"400", b"404", b"405", b"414", b"422"), found[:200]
    assert b"import" not in found
    assert client.ask("GET", "/").status == 200


@pytest.mark.parametrize("key", ["../a", "..", "%00", "a" * 500, "' OR 1=1 --", "0" * 16])
def test_ids_that_the_studio_did_not_draw_are_unknown(running: Any, key: str) -> None:
    client = running.client()
    for path in (f"/api/jobs/{quote(key, safe='')}/view", f"/api/photos/{quote(key, safe='')}/view"):
        assert client.ask("GET", path).status in (404, 414), path
    answer = client.ask("POST", "/api/jobs", {"photos": [key], "settings": {"style": "van-gogh"}})
    assert answer.status == 404


@pytest.mark.parametrize(
    "style", ["/etc/passwd", "../watercolor", "watercolor.safetensors", "owner/name", "owner/name:file.safetensors", ""]
)
def test_styles_are_names_of_the_studio_and_never_paths_or_hub_ids(
    running: Any, picture: Callable[..., bytes], style: str
) -> None:
    client = running.client()
    photo = client.upload(picture())
    answer = client.ask("POST", "/api/jobs", {"photos": [photo], "settings": {"style": style}})
    assert answer.status == 422
    assert "has no style" in answer.json["message"]


def test_another_session_sees_and_changes_nothing(running: Any, picture: Callable[..., bytes]) -> None:
    owner, other = running.client(), running.client()
    photo = owner.upload(picture())
    (job,) = owner.begin(photo)
    owner.wait(job["id"])
    for path in (f"/api/photos/{photo}/view", f"/api/jobs/{job['id']}/view", f"/api/jobs/{job['id']}/picture"):
        assert other.ask("GET", path).status == 404
        assert owner.ask("GET", path).status == 200
    assert other.ask("DELETE", f"/api/jobs/{job['id']}").status == 404
    assert other.ask("POST", f"/api/jobs/{job['id']}/cancel", {}).status == 404
    assert other.ask("POST", "/api/clear", {}).status == 200
    assert owner.job(job["id"])["status"] == "done"
    assert other.ask("GET", "/api/state").json["jobs"] == []


@pytest.mark.parametrize("session", ["", "x" * 32, "0" * 31, "0" * 33, "../" * 10, '"; DROP TABLE jobs'])
def test_a_session_that_the_studio_did_not_draw_is_replaced(running: Any, session: str) -> None:
    client = running.client()
    client.cookies["stylescore_session"] = session
    answer = client.ask("GET", "/")
    assert answer.status == 200
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Lax" in answer.headers["Set-Cookie"]
    assert client.cookies["stylescore_session"] != session


def test_a_stated_size_above_the_limit_is_refused_before_it_is_sent(running: Any) -> None:
    head = f"POST /api/photos HTTP/1.1\nHost: 127.0.0.1\nX-Stylescore: page\nContent-Length: {10**12}\n\n"
    assert raw(running.port, head).split(b" ", 2)[1] == b"413"


def test_a_body_without_a_stated_size_is_cut_at_the_limit(serve: Callable[..., Any], folder: Any) -> None:
    running = serve(limits=Limits(upload_bytes=100_000))
    chunk = f"{10_000:x}\n" + "a" * 10_000 + "\n"
    head = "POST /api/photos HTTP/1.1\nHost: 127.0.0.1\nX-Stylescore: page\nTransfer-Encoding: chunked\n\n"
    found = raw(running.port, head + 20 * chunk + "0\n\n")
    assert found.split(b" ", 2)[1] == b"413", found[:200]
    assert list(folder.photos.iterdir()) == []


def test_a_long_request_is_refused(running: Any) -> None:
    client = running.client()
    assert client.ask("POST", "/api/jobs", b"[" * 300_000).status == 413
    assert client.ask("POST", "/api/jobs", b"[" * 200_000).status == 422
    assert client.ask("GET", "/api/state?" + "a" * 5000).status == 414


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"photos": "a"}',
        b'{"photos": [], "settings": {}}',
        b'{"photos": ["a"], "settings": []}',
        b'{"photos": [1], "settings": {"style": "van-gogh"}}',
        b'{"photos": ["a"], "settings": {"style": 1}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "content": 2}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "content": NaN}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "seed": -1}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "size": 100000}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "model": "/etc"}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "execution": {"device": "cuda"}}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "constants": {"iterations": 1e99}}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "constants": {"__class__": 1}}}',
        b'{"photos": ["a"], "settings": {"style": "van-gogh", "constants": {"relevance.edit_prompt": "{style.x}"}}}',
    ],
)
def test_settings_that_cannot_be_used_are_refused_with_a_reason(running: Any, body: bytes) -> None:
    answer = running.client().ask("POST", "/api/jobs", body)
    assert answer.status == 422, answer.body
    assert answer.json["message"]
    assert "Traceback" not in answer.json["message"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"GIF89a", "damaged|not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\x80\x04\x95" + b"pickle" * 20, "not a picture|is a"),
        (b"PK\x03\x04" + bytes(100), "not a picture|is a"),
        (bomb(60_000, 60_000), "too many pixels"),
        (bomb(20_000, 6_000), "at most 100,000,000"),
        (bomb(3, 3), "at least 8"),
    ],
    ids=["empty", "cut", "svg", "postscript", "pickle", "zip", "bomb", "large", "tiny"],
)
def test_files_that_are_no_usable_photos_are_refused_and_leave_nothing(
    running: Any, content: bytes, reason: str
) -> None:
    folder = running.studio.folder
    before = sorted(folder.photos.iterdir())
    answer = running.client().ask("POST", "/api/photos", content, {"X-Name": "holiday.jpg"})
    assert answer.status == 422, answer.body
    assert re.search(reason, answer.json["message"]), answer.json
    assert str(folder.path) not in answer.json["message"], "no path of the server is told"
    assert sorted(folder.photos.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.png",
        "..\\..\\evil.png",
        "/etc/cron.d/evil.png",
        "\x00.png",
        ".htaccess",
        "CON",
        "a" * 400 + ".png",
        "",
        "é" * 200,
    ],
)
def test_the_name_of_an_upload_stays_in_its_folder(running: Any, picture: Callable[..., bytes], name: str) -> None:
    folder = running.studio.folder
    key = running.client().upload(picture(), quote(name))
    assert len(list(folder.photo(key).iterdir())) == 3
    assert {path.name.split(".")[0] for path in folder.path.iterdir()} <= {"photos", "runs", "workers", "studio"}
    assert all(path.is_dir() for path in folder.photos.iterdir())


def test_a_recipe_from_elsewhere_brings_no_path_and_no_other_model(running: Any) -> None:
    client = running.client()
    for text, reason in (
        ("not toml [", "cannot be read"),
        ("a" * 300_000, "cannot be read"),
        ('command = "train-style"', "not one of a stylized photo"),
        (
            'command = "stylize"\n[run]\nmodel = "/etc/passwd"\n[[run.styles]]\nname = "/etc/passwd"\n[run.method]\n',
            "no style 'passwd'",
        ),
        ('command = "stylize"\n[run]\nstyles = []\n[run.method]\n', "names no style"),
        ('command = "stylize"\n[run]\nunknown = 1\n', "unknown setting"),
    ):
        chunks = PngInfo()
        chunks.add_itxt("stylescore", text)
        target = io.BytesIO()
        Image.new("RGB", (16, 16)).save(target, "PNG", pnginfo=chunks)
        answer = client.ask("POST", "/api/photos", target.getvalue(), {"X-Name": "a.png"})
        assert answer.status == 422, (text[:40], answer.body)
        assert reason in answer.json["message"], answer.json


def test_every_answer_has_the_headers_that_keep_it_here(running: Any) -> None:
    client = running.client()
    for path in ("/", "/static/js/main.js", "/api/state", "/nothing"):
        headers = client.ask("GET", path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert client.ask("GET", "/api/state").headers["Cache-Control"] == "no-store"


def test_without_the_token_nothing_is_served(serve: Callable[..., Any], browser_client: Callable[[int], Any]) -> None:
    running = serve(token=TOKEN)
    client = browser_client(running.port)
    for path in ("/", "/static/js/main.js", "/api/state", f"/?token={TOKEN}x", "/?token=", f"/api/state?token={TOKEN}"):
        answer = client.ask("GET", path)
        assert answer.status == 401, path
        assert "Set-Cookie" not in answer.headers
    for shown in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}"):
        assert client.ask("GET", "/api/state", headers={"Authorization": shown}).status == 401


def test_the_token_is_shown_once_and_leaves_the_address(
    serve: Callable[..., Any], browser_client: Callable[[int], Any]
) -> None:
    running = serve(token=TOKEN)
    client = browser_client(running.port)
    answer = client.ask("GET", f"/?token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert client.ask("GET", "/").status == 200
    assert client.ask("GET", "/api/state").status == 200
    program = browser_client(running.port)
    assert program.ask("GET", "/api/state", headers={"Authorization": f"Bearer {TOKEN}"}).status == 200


def test_a_door_that_is_open_to_others_knows_addresses_but_no_foreign_names() -> None:
    access = Access("0.0.0.0", TOKEN, Limits())
    assert access.knows("192.168.1.5:8188")
    assert access.knows("[fe80::1]:8188")
    assert access.knows("localhost:8188")
    assert not access.knows("evil.example:8188")
    assert [is_loopback(host) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "example")] == [
        *(True, True, True, True),
        *(False, False),
    ]


def test_the_page_names_no_other_host() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix in (".html", ".js", ".css", ".svg"):
            found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text(encoding="utf-8")))
            assert found <= {"http://www.w3.org"}, path


def test_no_picture_is_served_as_something_that_runs(running: Any, picture: Callable[..., bytes]) -> None:
    client = running.client()
    photo = client.upload(picture(), "evil.html")
    for kind in ("view", "thumb"):
        assert client.ask("GET", f"/api/photos/{photo}/{kind}").headers["Content-Type"].startswith("image/")
    assert client.ask("GET", f"/api/photos/{photo}/original").status == 404


def test_paths_of_styles_are_folders_that_the_owner_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    for place in (tmp_path / "missing", tmp_path / "notes.txt"):
        with pytest.raises(StyleError, match="--styles must name"):
            StyleList([place])
