"""The page in a browser: from drop to download, by keyboard, in both themes, across reloads, tabs and restarts.

With `STUDIO_SCREENSHOTS=FOLDER`, the run with the bundled model is a whole one and leaves the documentation's pictures.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
playwright = pytest.importorskip("playwright.sync_api")
from tests.apply.tiny import build  # noqa: E402

from stylescore.catalog.registry import resolve_style  # noqa: E402

expect = playwright.expect
PATIENCE = 20_000
LONG = 240_000
expect.set_options(timeout=PATIENCE)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")

ROOT = Path(__file__).parents[2]
WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page; in the end nothing may have gone wrong in any, or have left the machine."""
    contexts: list[Any] = []
    troubles: list[str] = []
    allowed: list[str] = []

    def open_(address: str, context: Any = None, **options: Any) -> Any:
        allowed.append(address)
        if context is None:
            contexts.append(browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", **options}))
            context = contexts[-1]
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: message.type in ("error", "warning") and troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.extend(_elsewhere(request.url, allowed)))
        page.goto(address)
        expect(page.locator("#stage > *").first).to_be_visible()
        return page

    open_.troubles = troubles  # type: ignore[attr-defined]
    yield open_
    for context in contexts:
        context.close()
    assert troubles == []


def _elsewhere(url: str, allowed: list[str]) -> list[str]:
    own = url.startswith(("blob:", "data:")) or any(url.startswith(address) for address in allowed)
    return [] if own else [f"a request to {url}"]


def file_of(content: bytes, name: str = "cup.png") -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def choose(page: Any, *files: dict[str, Any]) -> None:
    page.locator("#files").set_input_files(list(files))
    expect(page.locator(".tile[aria-pressed=true]")).to_have_count(len(files))


def make(page: Any) -> None:
    """Stylize what is chosen, and wait until it is done."""
    page.get_by_role("button", name=re.compile("^Stylize")).click()
    expect(page.locator("before-after")).to_be_visible()


def requires_no_scrolling_sideways(page: Any) -> None:
    width = page.viewport_size["width"]
    for part in (".bar", ".stage", ".panel", ".under"):
        for box in (part.bounding_box() for part in page.locator(part).all() if part.is_visible()):
            assert box["x"] >= -1, part
            assert box["x"] + box["width"] <= width + 1, part


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_drop_to_download(
    running: Any, open_page: Any, picture: Callable[..., bytes], viewport: Any, scheme: str, tmp_path: Path
) -> None:
    page = open_page(running.address, viewport=viewport, color_scheme=scheme)
    expect(page.get_by_role("heading", name="Drop a photo")).to_be_visible()
    requires_no_scrolling_sideways(page)
    page.locator("body").drop({"files": [file_of(picture(size=(300, 200)))]})
    expect(page.get_by_role("button", name="Photo cup.png")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("radio", name="watercolor").check()
    page.get_by_label("Caption").fill("a cup of coffee")
    make(page)
    requires_no_scrolling_sideways(page)
    expect(page.locator(".facts")).to_contain_text("cup.png watercolor")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == "cup-watercolor.png"
    waiting.value.save_as(tmp_path / "got.png")
    with Image.open(tmp_path / "got.png") as found:
        assert found.size == (300, 200)
        assert "stylescore" in found.text
    ink, paper = (
        page.locator("body").evaluate(f"node => getComputedStyle(node).{name}") for name in ("color", "backgroundColor")
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light")


def test_the_slider_is_moved_by_pointer_and_by_keys(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture(size=(300, 200))))
    make(page)
    slider = page.get_by_role("slider", name="Photo to picture")
    expect(slider).to_have_attribute("aria-valuenow", "50")
    box = page.locator("before-after").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    expect(slider).to_have_attribute("aria-valuenow", "25")
    expect(slider).to_be_focused()
    for key, value in (("ArrowRight", "27"), ("Home", "0"), ("PageUp", "10"), ("End", "100")):
        page.keyboard.press(key)
        expect(slider).to_have_attribute("aria-valuenow", value)
    expect(slider).to_have_attribute("aria-valuetext", "100 percent photo")


def test_everything_is_done_by_keyboard_alone(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the picture")).to_be_focused()
    choose(page, file_of(picture()))  # the system's file dialog is none of the page's
    page.get_by_role("button", name="Add photos").focus()
    _tab_to(page, page.get_by_role("radio", name="van gogh"))
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="stained glass")).to_be_checked()
    _tab_to(page, page.get_by_role("slider", name="Style or content"))
    page.keyboard.press("ArrowRight")
    expect(page.locator("#content-value")).to_have_text("10 % towards photo")
    _tab_to(page, page.get_by_label("Caption"))
    page.keyboard.type("a cup")
    _tab_to(page, page.locator("#more summary"))
    page.keyboard.press("Enter")
    _tab_to(page, page.get_by_role("spinbutton", name="Iterations"))
    page.keyboard.type("5")
    _tab_to(page, page.get_by_role("button", name="Stylize", exact=True))
    page.keyboard.press("Enter")
    expect(page.locator("before-after")).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("stained glass · photo +10 % · iterations 5")
    _tab_to(page, page.get_by_role("link", name="Download"), start=page.get_by_role("slider", name="Photo to picture"))
    with page.expect_download():
        page.keyboard.press("Enter")


def _tab_to(page: Any, wanted: Any, start: Any = None) -> None:
    if start is not None:
        start.focus()
    for _ in range(60):
        if wanted.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by Tab")


def test_everything_has_a_name(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    expect(page.locator(".row")).not_to_have_count(0)
    _require_names(page)
    choose(page, file_of(picture(), "a.png"), file_of(picture(colour="navy"), "b.png"))
    page.locator("#more summary").click()
    expect(page.get_by_role("spinbutton", name="Iterations")).to_be_visible()
    _require_names(page)
    make(page)
    _require_names(page)
    page.get_by_role("button", name=re.compile("^Storage")).click()
    expect(page.get_by_role("dialog", name="What is kept")).to_be_visible()
    _require_names(page)


def _require_names(page: Any) -> None:
    """Every control has an accessible name, every picture an alternative, every id is there once."""
    tree = page.locator("body").aria_snapshot()
    unnamed = re.findall(
        r"^\s*- (?:button|link|slider|radio|textbox|spinbutton|progressbar|meter|img|dialog)(?:$|:| \[)", tree, re.M
    )
    assert unnamed == [], tree
    ids = page.locator("[id]").evaluate_all("nodes => nodes.map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_typing_goes_on_when_the_constants_arrive(running: Any, open_page: Any) -> None:
    page = open_page(running.address)
    page.locator("#more summary").click()
    held: list[Any] = []
    page.route("**/constants?*", lambda route: held.append(route))
    page.reload()  # what a page loads already may pass by a route
    _wait_for(page, held, 1)
    page.locator("#more summary").click()
    seed, iterations = (page.get_by_role("spinbutton", name=name) for name in ("Seed", "Iterations"))
    seed.focus()
    page.keyboard.type("1")
    held[0].continue_()
    expect(iterations).to_have_attribute("placeholder", re.compile(r"^\d+$"))
    expect(seed).to_be_focused()
    page.keyboard.type("2")
    expect(seed).to_have_value("12")
    page.get_by_role("radio", name="watercolor").check()
    _wait_for(page, held, 2)
    iterations.focus()
    page.keyboard.type("3")
    answer = held[1].fetch()
    held[1].fulfill(response=answer, json={**answer.json(), "iterations": 77})
    expect(iterations).to_have_attribute("placeholder", "77")
    expect(iterations).to_be_focused()
    page.keyboard.type("4")
    expect(iterations).to_have_value("34")
    expect(page.locator("#changed")).to_have_text("2 changed")
    page.get_by_role("button", name="Reset Iterations").click()
    expect(iterations).to_have_value("")
    expect(page.locator("#changed")).to_have_text("1 changed")


def _wait_for(page: Any, held: list[Any], count: int) -> None:
    for _ in range(PATIENCE // 10):
        if len(held) >= count:
            return
        page.wait_for_timeout(10)
    raise AssertionError(f"{len(held)} of {count} requests came")


def test_progress_previews_and_a_reload_in_the_middle(serve: Any, open_page: Any, picture: Any) -> None:
    running = serve()
    running.engine.iterations, running.engine.seconds = 40, 0.2
    page = open_page(running.address)
    choose(page, file_of(picture(size=(300, 200))))
    page.get_by_role("button", name="Stylize").click()
    expect(page.locator(".now")).to_have_text(re.compile(r"^\d+ of 40 · .* left$"))
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuemax", "40")
    first = page.locator(".frame > img").get_attribute("src")
    expect(page.locator(".frame > img")).not_to_have_attribute("src", str(first))
    page.reload()
    expect(page.locator(".now")).to_have_text(re.compile(r"^\d+ of 40"))
    expect(page.locator("#queue .wide")).to_have_text("making a picture")
    page.get_by_role("button", name="Stop and keep").click()
    expect(page.locator("before-after")).to_be_visible()
    expect(page.locator(".now")).to_have_text(re.compile(r"^Stopped after \d+ of 40, and kept$"))
    running.engine.seconds = 0
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("button", name="Go on")).to_have_count(0)
    expect(page.locator("before-after")).to_be_visible()


def test_two_tabs_see_the_same(serve: Any, open_page: Any, picture: Any) -> None:
    running = serve()
    running.engine.hold.clear()
    first = open_page(running.address)
    second = open_page(running.address, first.context)
    choose(first, file_of(picture(), "a.png"), file_of(picture(colour="navy"), "b.png"))
    first.get_by_role("button", name="Stylize 2 photos").click()
    expect(second.locator("#film > li")).to_have_count(2)
    expect(second.locator("#queue .wide")).to_have_text("making a picture, 1 to come")
    second.locator("#film > li[data-status=queued] .shot").click()
    expect(second.locator(".now")).to_have_text("Next in the queue")
    second.get_by_role("button", name="Cancel").click()
    expect(first.locator("#film > li[data-status=cancelled]")).to_have_count(1)
    second.get_by_role("button", name="Remove").click()
    expect(first.locator("#film > li")).to_have_count(1)
    running.engine.hold.set()
    for page in (first, second):
        expect(page.locator("#film > li[data-status=done]")).to_have_count(1)


def test_photos_keep_the_order_in_which_they_were_dropped(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    sizes = [(1600, 1200), (96, 64), (64, 48), (48, 48)]
    files = [file_of(picture((9, 9, n), size), f"{n}.png") for n, size in enumerate(sizes)]
    names = [f"Photo {n}.png" for n in reversed(range(4))]
    choose(page, *files)
    tiles = page.locator(".tile[aria-pressed]")
    assert [tile.get_attribute("aria-label") for tile in tiles.all()] == names, "the newest is first"
    reach = page.locator("#caption-reach")
    expect(reach).to_have_text("")
    page.locator("#caption").fill("a cup")
    expect(reach).to_have_text("for all 4 photos")
    page.get_by_role("button", name="Stylize 4 photos").click()
    expect(page.locator(".shot").first).to_have_attribute("aria-label", re.compile(r"^3\.png"))
    page.reload()
    expect(tiles).to_have_count(4)
    assert [tile.get_attribute("aria-label") for tile in tiles.all()] == names
    page.locator("#caption").fill("")


def test_on_a_phone_the_queue_is_counted_in_a_word(serve: Any, open_page: Any, picture: Any) -> None:
    running = serve()
    running.engine.hold.clear()
    page = open_page(running.address, viewport=NARROW)
    choose(page, file_of(picture()))
    page.get_by_role("button", name="Stylize").click()
    counted = page.locator("#queue .narrow")
    expect(page.locator("#queue .wide")).to_have_text("making a picture")
    expect(counted).to_have_text("1 to make")
    box, bar = counted.bounding_box(), page.locator("#queue").bounding_box()
    assert box["x"] + box["width"] <= bar["x"] + bar["width"] + 1, "it is not cut off"
    running.engine.hold.set()
    expect(page.locator("before-after")).to_be_visible()


def test_up_to_four_pictures_are_compared(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, *(file_of(picture(colour=(60 * number, 90, 9)), f"{number}.png") for number in range(5)))
    page.get_by_role("button", name="Stylize 5 photos").click()
    expect(page.locator("#film > li[data-status=done]")).to_have_count(5)
    picks = page.get_by_role("button", name=re.compile("^Compare \\d.png"))
    for index in range(5):
        picks.nth(index).focus()
        page.keyboard.press("Enter")
    page.get_by_role("button", name="Compare 5", exact=True).click()
    expect(page.locator(".toast")).to_contain_text("At most 4 pictures")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download 5").click()
    assert waiting.value.suggested_filename == "pictures.zip"
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert sorted(archive.namelist()) == [f"{number}-van-gogh.png" for number in range(5)]
    picks.nth(0).click()
    page.get_by_role("button", name="Compare 4", exact=True).click()
    expect(page.locator(".compare img")).to_have_count(4)
    expect(page.get_by_role("link", name="Download 4")).to_be_visible()
    page.get_by_role("button", name="Done").click()
    expect(page.locator("before-after")).to_be_visible()


def mask_of(page: Any) -> Image.Image | None:
    """Return the mask of the page's only photo, once it is with the studio."""
    page.wait_for_function("import('/static/js/masks.js').then(({ masksSaved }) => masksSaved()).then(() => true)")
    found = page.evaluate("Object.entries(JSON.parse(localStorage.masks || '{}'))")
    if not found:
        return None
    ((photo, mask),) = found
    answer = page.request.get(f"{page.url}api/photos/{photo}/masks/{mask}")
    return Image.open(io.BytesIO(answer.body()))


def test_a_mask_is_painted_and_goes_with_the_picture(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture(size=(300, 200))))
    page.get_by_role("button", name="Mask", exact=True).click()
    canvas = page.get_by_role("application", name="Mask of cup.png")
    expect(canvas).to_be_focused()
    box = canvas.bounding_box()

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=5)
        page.mouse.up()

    drag((0.2, 0.2), (0.5, 0.2))
    page.get_by_role("radio", name="Less").check(force=True)
    drag((0.2, 0.8), (0.5, 0.8))
    mask = mask_of(page)
    assert mask is not None
    assert mask.size == (300, 200)
    assert [mask.getpixel(at) for at in ((60, 40), (120, 40), (240, 100))] == [0, 0, 255]
    assert mask.getpixel((100, 160)) == pytest.approx(128, abs=2)
    page.get_by_role("button", name="Undo").click()
    mask = mask_of(page)
    assert mask is not None
    assert mask.getpixel((100, 160)) == 255
    page.get_by_role("button", name="Invert").click()
    mask = mask_of(page)
    assert mask is not None
    assert [mask.getpixel(at) for at in ((60, 40), (240, 100))] == [255, 0]
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Photo cup.png, masked")).to_be_visible()
    page.reload()
    expect(page.locator("canvas.mask")).to_be_visible()
    expect(page.get_by_role("button", name="Photo cup.png, masked")).to_be_visible()
    make(page)
    expect(page.locator(".facts")).to_contain_text("van gogh · masked")
    page.get_by_role("button", name="Mask", exact=True).click()
    page.get_by_role("button", name="Clear the mask").click()
    assert mask_of(page) is None
    page.get_by_role("button", name="Done").click()
    expect(page.locator("before-after")).to_be_visible()
    page.get_by_role("button", name="Use settings").click()
    expect(page.get_by_role("button", name="Photo cup.png, masked")).to_be_visible()
    mask = mask_of(page)
    assert mask is not None
    assert mask.getpixel((240, 100)) == 0, "the picture's own mask is back"


def test_a_mask_is_painted_by_keyboard_and_by_touch(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address, viewport=NARROW, has_touch=True, is_mobile=True)
    choose(page, file_of(picture(size=(300, 200))))
    page.get_by_role("button", name="Mask", exact=True).tap()
    canvas = page.get_by_role("application", name="Mask of cup.png")
    expect(canvas).to_be_focused()
    requires_no_scrolling_sideways(page)
    _require_names(page)
    for key in ("]", "]", "Space", "ArrowRight", "Shift+ArrowRight", "Space", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.get_by_role("slider", name="Size")).to_have_value("16")
    mask = mask_of(page)
    assert mask is not None
    assert [mask.getpixel(at) for at in ((150, 100), (185, 100), (220, 100), (150, 20))] == [0, 0, 255, 255]
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + 0.1 * box["width"], box["y"] + 0.2 * box["height"])
    mask = mask_of(page)
    assert mask is not None
    assert [mask.getpixel(at) for at in ((30, 40), (150, 100), (285, 40))] == [0, 0, 255]
    canvas.focus()
    for key in ("z", "z"):
        page.keyboard.press(key)
    assert mask_of(page) is None
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Photo cup.png", exact=True)).to_be_visible()


def test_captions_are_written_and_can_be_changed(
    serve: Any, open_page: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylescore.studio.server.cached_transformer", lambda hub_id: Path("model"))
    running = serve()
    page = open_page(running.address)
    choose(page, file_of(picture(), "a.png"))
    caption = page.get_by_label("Caption")
    expect(caption).to_have_value("a photo called a.png")
    page.reload()
    expect(caption).to_have_value("a photo called a.png")
    page.locator("#files").set_input_files([file_of(picture(colour="navy"), "b.png")])
    expect(caption).to_have_attribute("placeholder", "each photo its own caption")
    written = "import('/static/js/state.js').then(({ state }) => state.photos.every((photo) => photo.caption))"
    assert any(page.evaluate(written) or page.wait_for_timeout(50) for _ in range(600))
    page.get_by_role("button", name="Stylize 2 photos").click()
    expect(page.locator("#film > li[data-status=done]")).to_have_count(2)
    for shot in page.locator("#film .shot").all():
        shot.click()
        expect(page.locator(".facts")).to_contain_text(re.compile("([ab].png) .*“a photo called \\1”"))
    page.get_by_role("button", name="Photo a.png").click()
    expect(caption).to_have_value("a photo called b.png")
    caption.fill("the sea")
    page.get_by_role("button", name="Photo a.png").click()
    expect(caption).to_have_value("the sea")


def test_styles_are_mixed_with_weights(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture()))
    page.get_by_label("Mix in another style").select_option("watercolor")
    expect(page.get_by_role("spinbutton", name="Weight of watercolor")).to_be_focused()
    expect(page.get_by_role("spinbutton", name="Weight of van gogh")).to_have_value("0.5")
    page.get_by_role("spinbutton", name="Weight of watercolor").fill("0.8")
    page.reload()
    expect(page.get_by_role("spinbutton", name="Weight of watercolor")).to_have_value("0.8")
    make(page)
    expect(page.locator(".facts")).to_contain_text("van gogh 0.5 + watercolor 0.8")
    page.get_by_role("radio", name="watercolor").check()
    expect(page.locator(".mix-row")).to_have_count(0)
    page.get_by_role("button", name="Use settings").click()
    expect(page.get_by_role("radio", name="van gogh")).to_be_checked()
    page.get_by_role("button", name="Take out watercolor").click()
    expect(page.locator(".mix-row")).to_have_count(0)
    expect(page.get_by_label("Mix in another style")).to_be_focused()


def test_a_photo_is_removed_from_the_list_and_its_picture_stays(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture(), "a.png"), file_of(picture(colour="navy"), "b.png"))
    page.get_by_role("button", name="Take b.png off the list").click()
    expect(page.locator(".tile[aria-pressed]")).to_have_count(1)
    make(page)
    page.get_by_role("button", name="Take a.png off the list").click()
    expect(page.locator(".tile[aria-pressed]")).to_have_count(0)
    page.reload()
    expect(page.locator("before-after")).to_be_visible()
    expect(page.locator(".tile[aria-pressed]")).to_have_count(0)
    choose(page, file_of(picture(), "a.png"))
    page.locator("#film .shot").first.click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator("#film > li")).to_have_count(0)


def test_a_draft_is_shown_until_the_run_has_a_preview(serve: Any, open_page: Any, picture: Any, tmp_path: Path) -> None:
    (tmp_path / "generators").mkdir()
    onnx.save(build(), tmp_path / "generators" / "van-gogh.onnx")
    running = serve(styles=(tmp_path / "generators",))
    running.engine.hold.clear()
    page = open_page(running.address)
    choose(page, file_of(picture(size=(300, 200))))
    page.get_by_role("button", name="Stylize").click()
    expect(page.locator(".frame .tag")).to_have_text("draft")
    expect(page.get_by_role("img", name="cup.png, a draft")).to_be_visible()
    running.engine.seconds = 0.5
    running.engine.hold.set()
    expect(page.locator(".frame[data-draft]")).to_have_count(0)
    expect(page.locator("before-after")).to_be_visible()


def test_a_draft_of_the_worker_stays_until_a_quarter_of_the_run_is_done(
    serve: Any, open_page: Any, picture: Any
) -> None:
    running = serve()
    running.engine.drafts, running.engine.iterations, running.engine.held_step = True, 16, 4
    running.engine.hold.clear()
    page = open_page(running.address)
    choose(page, file_of(picture(size=(300, 200))))
    page.get_by_role("button", name="Stylize").click()
    expect(page.get_by_role("img", name="cup.png, a draft")).to_be_visible()
    expect(page.locator(".now")).to_have_text(re.compile("^3 of 16"))
    expect(page.locator(".frame .tag")).to_have_text("draft")
    page.reload()
    expect(page.locator(".frame .tag")).to_have_text("draft")
    running.engine.held_step = 9
    expect(page.locator(".now")).to_have_text(re.compile("^8 of 16"))
    expect(page.locator(".frame .tag")).to_have_count(0)
    expect(page.get_by_role("img", name="cup.png, being made")).to_have_attribute("src", re.compile("preview"))
    running.engine.hold.set()
    expect(page.locator("before-after")).to_be_visible()


def test_a_lora_file_in_a_style_folder_is_offered_when_the_page_is_looked_at_again(
    serve: Any, open_page: Any, picture: Any, tmp_path: Path
) -> None:
    places = tmp_path / "loras"
    places.mkdir()
    page = open_page(serve(styles=(places,)).address)
    choose(page, file_of(picture()))
    dropped = file_of(b"weights", "my-own.safetensors")
    page.locator("#files").set_input_files([dropped])
    expect(page.locator(".toast.problem")).to_contain_text("my-own.safetensors is no photo")
    expect(page.locator(".toast.problem")).to_contain_text("--styles")
    shutil.copy(resolve_style("van-gogh").path, places / "my-own.safetensors")
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    page.get_by_role("radio", name="my own").check()
    make(page)
    expect(page.locator(".facts")).to_contain_text("my own")
    (places / "my-own.safetensors").unlink()
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    expect(page.get_by_role("radio", name="my own")).to_have_count(0)
    expect(page.get_by_role("radio", name="van gogh")).to_be_checked()


def test_all_pictures_that_wait_are_cancelled_by_one_button(serve: Any, open_page: Any, picture: Any) -> None:
    running = serve()
    running.engine.hold.clear()
    page = open_page(running.address)
    choose(page, *(file_of(picture(colour=colour), f"{colour}.png") for colour in ("navy", "teal", "gold", "pink")))
    page.get_by_role("button", name="Stylize 4 photos").click()
    expect(page.locator("#film > li[data-status=running]")).to_have_count(1)
    page.get_by_role("button", name="Cancel 3 waiting").click()
    expect(page.locator("#film > li[data-status=cancelled]")).to_have_count(3)
    expect(page.locator("#film > li[data-status=running]")).to_have_count(1)
    expect(page.get_by_role("button", name=re.compile("waiting$"))).to_have_count(0)


def test_a_studio_without_styles_says_where_they_go(
    serve: Any, open_page: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylescore.studio.style_list.list_styles", lambda places: [])
    page = open_page(serve().address)
    choose(page, file_of(picture()))
    expect(page.get_by_text("No style is here yet")).to_be_visible()
    page.get_by_role("button", name="Stylize").click()
    expect(page.get_by_role("alert").filter(has_text="there is no style to choose")).to_be_visible()
    expect(page.locator(".toast")).to_have_count(0)


def test_what_is_older_than_what_the_page_knows_changes_nothing(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture()))
    make(page)
    page.evaluate(
        """import('/static/js/state.js').then(({ state, putJobs, putAllJobs }) => {
            const [job] = state.jobs.values();
            const older = { ...job, status: "running", revision: job.revision - 1 };
            putJobs([older]);
            putAllJobs([older], new Map());
        })"""
    )
    expect(page.locator("#film > li[data-status=done]")).to_have_count(1)
    everything = "import('/static/js/state.js').then(({ state, putAllJobs }) => putAllJobs([], new Map(state.jobs)))"
    page.evaluate(everything)
    expect(page.locator("#film > li")).to_have_count(0)
    page.reload()
    expect(page.locator("#film > li[data-status=done]")).to_have_count(1)


def test_own_size_shows_every_pixel(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    choose(page, file_of(picture(size=(1900, 1400))))
    make(page)
    assert page.locator(".frame").bounding_box()["width"] < 1100
    page.get_by_role("button", name="Own size").click()
    assert page.locator(".frame").bounding_box()["width"] == pytest.approx(1900, abs=1)


def test_what_goes_wrong_is_said_where_it_goes_wrong(running: Any, open_page: Any, picture: Any) -> None:
    page = open_page(running.address)
    page.locator("#files").set_input_files([{"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}])
    expect(page.locator(".toast.problem")).to_contain_text("notes.png")
    choose(page, file_of(picture()))
    page.locator("#more summary").click()
    page.get_by_role("spinbutton", name="Iterations").fill("-3")
    page.get_by_role("button", name="Stylize").click()
    expect(page.get_by_role("alert").filter(has_text="iterations must be")).to_be_visible()
    expect(page.locator("#film > li")).to_have_count(0)
    # The browser itself logs the two refused requests.
    assert len(open_page.troubles) == 2
    assert all("422" in trouble for trouble in open_page.troubles)
    open_page.troubles.clear()


def test_what_was_set_is_there_after_a_reload_and_can_be_reset(running: Any, open_page: Any) -> None:
    page = open_page(running.address)
    page.get_by_role("radio", name="pixel art").check()
    page.locator("#more summary").click()
    page.get_by_role("spinbutton", name="Style strength").fill("0.7")
    expect(page.locator("#changed")).to_have_text("1 changed")
    page.reload()
    expect(page.get_by_role("radio", name="pixel art")).to_be_checked()
    page.locator("#more summary").click()
    expect(page.get_by_role("spinbutton", name="Style strength")).to_have_value("0.7")
    page.get_by_role("button", name="Reset Style strength").click()
    expect(page.locator("#changed")).to_have_text("all as the preset")
    expect(page.get_by_role("spinbutton", name="Style strength")).to_have_attribute("placeholder", re.compile(r"^\d"))


def test_the_theme_is_chosen_and_kept(running: Any, open_page: Any) -> None:
    page = open_page(running.address, color_scheme="light")
    page.get_by_role("button", name="Theme: as the system").click()
    page.get_by_role("button", name="Theme: light").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()


def test_one_button_clears_everything(serve: Any, open_page: Any, picture: Any) -> None:
    running = serve()
    page = open_page(running.address)
    choose(page, file_of(picture()))
    make(page)
    page.get_by_role("button", name=re.compile("^Storage")).click()
    with page.expect_response("**/api/clear"):  # the page is told before the files are gone
        page.get_by_role("button", name="Clear everything").click()
    expect(page.get_by_role("heading", name="Drop a photo")).to_be_visible()
    expect(page.locator(".film")).to_be_hidden()
    assert list(running.studio.folder.runs.iterdir()) == []
    assert list(running.studio.folder.photos.iterdir()) == []


class Program:
    """`stylescore studio` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        begun = time.monotonic()
        command = ["-m", "stylescore", "studio", "--no-browser", "--port", str(self.port), "--data", str(self.folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [sys.executable, *command, "--device", "cpu"], env=environment, text=True, stderr=subprocess.PIPE
        )
        while time.monotonic() - begun < 60:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("it does not answer")

    def end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=30)

    def stop_workers(self) -> None:
        from stylescore.studio.serve import stop_workers

        stop_workers(self.folder)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    started = Program(tmp_path / "studio")
    yield started
    if started.process is not None and started.process.poll() is None:
        started.end(signal.SIGINT)
    started.stop_workers()


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_real_run_survives_a_killed_server_and_its_picture_brings_its_settings_back(
    program: Program, open_page: Any, tmp_path: Path
) -> None:
    shots = os.environ.get("STUDIO_SCREENSHOTS")
    patience = 5 * LONG if shots else LONG
    program.start()
    page = open_page(program.address)
    _shoot(page, shots, "studio-start")
    page.get_by_role("button", name="Try this cup").click()
    expect(page.get_by_role("button", name="Photo coffee.jpg")).to_be_visible()
    page.locator("#content").fill("0.6")
    page.get_by_label("Mix in another style").select_option("oil-painting")
    page.get_by_role("button", name="Mask", exact=True).click()
    for key in ("Space", "ArrowDown", "Shift+ArrowDown", "Space"):
        page.keyboard.press(key)
    _shoot(page, shots, "studio-mask")
    page.get_by_role("button", name="Done").click()
    if not shots:
        page.locator("#more summary").click()
        page.get_by_role("spinbutton", name="Iterations").fill("12")
        page.get_by_role("spinbutton", name="Working size").fill("128")
        page.get_by_role("spinbutton", name="Photo's colours").fill("0.5")
        page.get_by_role("spinbutton", name="Mask edge").fill("4")
    page.get_by_role("button", name="Stylize").click()
    counted = re.compile(r"^(\d+) of \d+ · ")
    expect(page.locator(".now")).to_have_text(counted, timeout=patience)
    if shots:
        expect(page.locator(".now")).to_have_text(re.compile(r"^2\d of"), timeout=patience)
    _shoot(page, shots, "studio-running")
    program.end(signal.SIGKILL)
    expect(page.locator("#banner")).to_be_visible()
    program.start()
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("before-after")).to_be_visible(timeout=patience)
    _shoot(page, shots, "studio-picture")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    target = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(target)
    assert target.name == "coffee-van-gogh-oil-painting.png"
    page.locator("#content").fill("0.2")
    page.get_by_role("button", name="Take out oil painting").click()
    page.get_by_role("radio", name="watercolor").check()
    page.get_by_role("button", name="Mask", exact=True).click()
    page.get_by_role("button", name="Clear the mask").click()
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_role("button", name="Photo coffee.jpg", exact=True)).to_be_visible()
    page.locator("body").drop({"files": [str(target)]})
    back = "The settings of coffee-van-gogh-oil-painting.png are back."
    expect(page.locator(".toast")).to_have_text(re.compile(f"^{re.escape(back)}.*The photo coffee.jpg is chosen.$"))
    expect(page.get_by_role("radio", name="van gogh")).to_be_checked()
    expect(page.locator("#content")).to_have_value("0.6")
    expect(page.get_by_role("spinbutton", name="Weight of oil painting")).to_have_value("0.5")
    expect(page.get_by_role("button", name="Photo coffee.jpg, masked")).to_be_visible()
    if not shots:
        expect(page.get_by_role("spinbutton", name="Iterations")).to_have_value("12")
        expect(page.get_by_role("spinbutton", name="Working size")).to_have_value("128")
        expect(page.get_by_role("spinbutton", name="Photo's colours")).to_have_value("0.5")
        expect(page.get_by_role("spinbutton", name="Mask edge")).to_have_value("4")
    _shoot_others(page, shots)
    # While the server was away, the browser itself logged requests that failed.
    assert all(_is_refused(trouble) for trouble in open_page.troubles), open_page.troubles
    open_page.troubles.clear()


def _is_refused(trouble: str) -> bool:
    ways = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE")
    return any(way in trouble for way in ways)


def _shoot_others(page: Any, shots: str | None) -> None:
    """Take the pictures in the dark and on a phone."""
    if not shots:
        return
    for toast in page.locator(".toast button").all():
        toast.click()
    page.locator(".shot").first.click()
    expect(page.locator("before-after")).to_be_visible()
    page.emulate_media(color_scheme="dark")
    page.locator("#more summary").click()
    _shoot(page, shots, "studio-dark")
    page.locator("#more summary").click()
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(NARROW)
    _shoot(page, shots, "studio-phone")


def _shoot(page: Any, folder: str | None, name: str) -> None:
    """Write a small picture of what is seen, if that is asked for."""
    if folder is None:
        return
    page.wait_for_timeout(600)
    with Image.open(io.BytesIO(page.screenshot())) as seen:
        seen.convert("RGB").save(Path(folder) / f"{name}.webp", quality=80, method=6)
