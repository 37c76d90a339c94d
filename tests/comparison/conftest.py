"""Folders of pictures by two methods, a study and its server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from stylescore.comparison.server import Poll, PollServer
from stylescore.comparison.study import Study, make_study
from stylescore.comparison.votes import Votes
from stylescore.evaluation.pairs import list_pictures, list_results

COLOURS = {"secret-sms": "red", "secret-dds": "blue", "photos": "white", "style": "green"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    secret = PngInfo()
    secret.add_text("method", "secret-sms")
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for n in range(3):
            Image.new("RGB", (40, 30), colour).save(tmp_path / name / f"p{n}.png", pnginfo=secret)
    methods = {name: list_results(tmp_path / name) for name in ("secret-sms", "secret-dds")}
    style = tmp_path / "style" / "p0.png"
    return make_study(methods, list_pictures(tmp_path / "photos"), questions=("style", "overall"), style=style)


@pytest.fixture
def votes(study: Study, tmp_path: Path) -> Votes:
    return Votes.open(tmp_path / "votes.sqlite", study, ["anna", "ben"])


@pytest.fixture
def server(study: Study, votes: Votes) -> Iterator[PollServer]:
    with PollServer(Poll(study, votes), "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()
