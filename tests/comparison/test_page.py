"""The page in a browser: voting by keyboard and mouse, taking back, reaching the end; nothing leaves the server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from stylescore.comparison.server import PollServer
from stylescore.comparison.votes import Votes

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture
def page(server: PollServer) -> Iterator[Any]:
    """Open anna's page; fail at the end if it had an error or asked for something elsewhere."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    problems: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1000, "height": 700})
        shown.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        shown.on("pageerror", lambda error: problems.append(str(error)))
        own = f"http://{server.address}/"
        shown.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
        shown.goto(server.links()["anna"])
        wait(shown, 0)
        yield shown
        browser.close()
    # A browser asks for an icon of every site; there is none. One test lets a vote fail.
    assert [problem for problem in problems if "404" not in problem and "500" not in problem] == []


def wait(page: Any, done: int) -> None:
    expect(page, "#count", f"{done} of 6")


def expect(page: Any, selector: str, text: str) -> None:
    """Wait until an element has a text."""
    pytest.importorskip("playwright.sync_api").expect(page.locator(selector)).to_have_text(text, timeout=20_000)


def test_voting_by_keyboard_to_the_end(page: Any, votes: Votes) -> None:
    for done, key in enumerate(
        ("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowRight"), start=1
    ):
        page.keyboard.press(key)
        wait(page, done)
    assert page.locator("#question").inner_text() == "Finished. Thank you!"
    assert page.locator("#main").is_hidden()
    choices = [row.choice for row in votes.rows()]
    assert sorted(choices) == ["left", "left", "left", "right", "right", "tie"]
    page.keyboard.press("ArrowLeft")
    assert len(votes.rows()) == 6


def test_backspace_takes_a_vote_back_and_a_reload_goes_on(page: Any, votes: Votes) -> None:
    page.keyboard.press("ArrowLeft")
    wait(page, 1)
    page.keyboard.press("ArrowRight")
    wait(page, 2)
    page.keyboard.press("Backspace")
    wait(page, 1)
    assert [row.choice for row in votes.rows()] == ["left"]
    page.reload()
    wait(page, 1)


def test_voting_with_the_mouse_and_what_is_seen(page: Any, votes: Votes) -> None:
    page.wait_for_load_state("networkidle")
    assert page.evaluate("[...document.images].map((image) => image.naturalWidth)") == [40, 40, 40, 40]
    assert page.locator("#question").inner_text() == "Which one shows the style better?"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#right")
    wait(page, 1)
    page.click("#tie")
    wait(page, 2)
    page.click("#undo")
    wait(page, 1)
    assert [row.choice for row in votes.rows()] == ["right"]
    assert "secret" not in page.content()


def test_a_vote_that_is_not_saved_is_said(page: Any, server: PollServer) -> None:
    page.route("**/vote", lambda route: route.fulfill(status=500, body="no"))
    page.reload()  # what a page loads already may pass by a route
    wait(page, 0)
    page.keyboard.press("ArrowLeft")
    expect(page, "#message", "Not saved: no")
    assert page.locator("#count").inner_text() == "0 of 6"
