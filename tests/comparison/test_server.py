"""The server: what the page gets, that nothing names a method, and hostile requests."""

from __future__ import annotations

import http.client
import io
import json
import socket
from typing import Any

import pytest
from PIL import Image

from stylescore.comparison.server import LARGEST_BODY, PollServer, check_host, is_loopback
from stylescore.comparison.study import Study
from stylescore.comparison.votes import Votes
from stylescore.errors import ConfigError, OutputError


def send(
    server: PollServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if content is not None:
        told.setdefault("Content-Type", "application/json")
    connection.putrequest(method, path, skip_host="Host" in told)
    if content is not None:
        told.setdefault("Content-Length", str(len(content)))
    for name, value in told.items():
        connection.putheader(name, value)
    connection.endheaders(content)
    response = connection.getresponse()
    found = response.status, dict(response.headers), response.read()
    connection.close()
    return found


def link(server: PollServer, voter: str = "anna") -> str:
    return server.links()[voter].removeprefix(f"http://{server.address}")


def state(server: PollServer, voter: str = "anna") -> dict[str, Any]:
    return dict(json.loads(send(server, "GET", f"{link(server, voter)}state")[2]))


def test_a_vote_is_saved_and_the_next_question_follows(server: PollServer, study: Study, votes: Votes) -> None:
    first = state(server)
    assert (first["done"], first["total"]) == (0, 6)
    assert first["current"]["question"] == "style"
    status, _, body = send(server, "POST", f"{link(server)}vote", {"task": 0, "question": "style", "choice": "left"})
    assert status == 200
    assert json.loads(body)["current"]["question"] == "overall"
    (row,) = votes.rows()
    assert (row.voter, row.left) == ("anna", study.tasks("anna")[0].left)
    assert state(server, "ben")["done"] == 0
    status, _, body = send(server, "POST", f"{link(server)}undo", {"task": 0, "question": "style"})
    assert json.loads(body)["done"] == 0
    assert votes.rows() == []


def test_after_the_last_vote_there_is_no_question(server: PollServer) -> None:
    while (current := state(server)["current"]) is not None:
        vote = {"task": current["task"], "question": current["question"], "choice": "tie"}
        assert send(server, "POST", f"{link(server)}vote", vote)[0] == 200
    assert state(server)["done"] == 6


def test_pictures_are_those_of_the_task(server: PollServer, study: Study) -> None:
    colours, white = {"secret-sms": (255, 0, 0), "secret-dds": (0, 0, 255)}, (255, 255, 255)
    for number, task in enumerate(study.tasks("anna")):
        for side, expected in (
            ("left", colours[task.left]),
            ("right", colours[task.right]),
            ("photo", white),
        ):
            status, headers, body = send(server, "GET", f"{link(server)}picture/{number}/{side}")
            assert (status, headers["Content-Type"]) == (200, "image/png")
            assert Image.open(io.BytesIO(body)).getpixel((5, 5)) == expected
    assert Image.open(io.BytesIO(send(server, "GET", f"{link(server)}style")[2])).getpixel((5, 5)) == (0, 128, 0)


def test_nothing_that_is_sent_names_a_method_or_a_file(server: PollServer) -> None:
    paths = ("", "state", "picture/0/left", "picture/0/right", "style")
    for path in (*(link(server) + path for path in paths), "/vote.js", "/vote.css"):
        status, headers, body = send(server, "GET", path)
        assert status == 200, path
        for text in (b"secret", b"sms", b"dds", b"p0"):
            assert text not in body + repr(headers).encode(), path


def test_the_page_may_load_nothing_from_elsewhere(server: PollServer) -> None:
    _, headers, body = send(server, "GET", link(server))
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"http" not in body
    assert b"<script src=" in body


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_requests_for_another_host_or_from_another_page_are_refused(
    server: PollServer, votes: Votes, headers: dict[str, str]
) -> None:
    vote = {"task": 0, "question": "style", "choice": "left"}
    assert send(server, "POST", f"{link(server)}vote", vote, **headers)[0] == 403
    assert send(server, "GET", f"{link(server)}state", **headers)[0] == 403
    assert votes.rows() == []


def test_the_page_itself_and_links_in_mails_are_accepted(server: PollServer) -> None:
    own = f"http://127.0.0.1:{server.server_port}"
    vote = {"task": 0, "question": "style", "choice": "left"}
    assert send(server, "POST", f"{link(server)}vote", vote, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    assert send(server, "GET", link(server), Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert send(server, "GET", link(server), Host=f"LOCALHOST:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v/unknown-token-000000/state",
        "/../votes.sqlite",
        "/vote.html",
        "/vote.js/../../votes.sqlite",
        "/page/vote.js",
        "{link}../../etc/passwd",
        "{link}picture/0/left/../../../../etc/passwd",
        "{link}picture/%2e%2e%2fvotes.sqlite/left",
        "{link}picture/-1/left",
        "{link}picture/3/left",
        "{link}picture/999999999/left",
        "{link}picture/0/secret-sms",
        "{link}picture/0/left?x=1",
        "{link}state%00",
        "http://evil.example{link}state",
        "//evil.example{link}state",
    ],
)
def test_other_paths_do_not_exist(server: PollServer, path: str) -> None:
    status, _, body = send(server, "GET", path.replace("{link}", link(server)))
    assert (status, body) in ((404, b"Not Found"), (403, b"Forbidden"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff",
        b"[" * 2000,
        [],
        {},
        {"task": "0", "question": "style", "choice": "left"},
        {"task": True, "question": "style", "choice": "left"},
        {"task": -1, "question": "style", "choice": "left"},
        {"task": 3, "question": "style", "choice": "left"},
        {"task": 0.5, "question": "style", "choice": "left"},
        {"task": 0, "question": "content", "choice": "left"},
        {"task": 0, "question": ["style"], "choice": "left"},
        {"task": 0, "question": "style", "choice": "secret-sms"},
        {"task": 0, "question": "style", "choice": {}},
        {"task": 0, "question": "style"},
    ],
)
def test_other_votes_are_refused(server: PollServer, votes: Votes, body: Any) -> None:
    assert send(server, "POST", f"{link(server)}vote", body)[0] == 400
    assert votes.rows() == []


def test_forms_large_bodies_and_other_methods_are_refused(server: PollServer, votes: Votes) -> None:
    vote = {"task": 0, "question": "style", "choice": "left"}
    path = f"{link(server)}vote"
    assert send(server, "POST", path, vote, Content_Type="text/plain")[0] == 415
    assert send(server, "POST", path, b"x" * (LARGEST_BODY + 1))[0] == 413
    for length in ("-1", "x", "99999999999999999999"):
        assert send(server, "POST", path, b"", Content_Length=length)[0] == 413
    assert send(server, "POST", link(server), vote)[0] == 404
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert send(server, method, path)[0] == 501
    assert votes.rows() == []


def test_a_picture_that_is_gone_is_reported_to_who_started_the_server(server: PollServer, study: Study) -> None:
    task = study.tasks("ben")[0]
    study.results[task.left][task.photo].unlink()
    status, _, body = send(server, "GET", f"{link(server, 'ben')}picture/0/left")
    assert status == 500
    assert b"secret" not in body
    assert "there is no file" in str(server.failures[0])


def test_it_listens_on_this_machine_only(server: PollServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.socket.family == socket.AF_INET


def test_loopback_and_addresses_of_all_interfaces() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "0.0.0.0", "example.org", "10.0.0.1")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    check_host("127.0.0.1", None)
    check_host("0.0.0.0", "192.168.1.5")
    for host in ("0.0.0.0", "", "::"):
        with pytest.raises(ConfigError, match="needs --address"):
            check_host(host, None)


def test_a_taken_port_is_an_error(server: PollServer) -> None:
    with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1:{server.server_port}"):
        PollServer(server.poll, "127.0.0.1", server.server_port)
