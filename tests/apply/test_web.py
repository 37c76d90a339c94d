"""The page of examples/web in a headless Chromium: the picture of the command line, without any other host."""

from __future__ import annotations

import io
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.apply.tiny import FACTS, picture

from stylescore_apply.names import BUNDLED
from stylescore_apply.networks import OnnxNetwork, TileRule
from stylescore_apply.noise import noise_field
from stylescore_apply.stylizing import OVERHEAD, Settings, stylize
from stylescore_apply.tiles import split_axis, split_evenly

PAGE = Path(__file__).parents[2] / "examples" / "web"
RUNTIME = PAGE / "node_modules" / "onnxruntime-web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = 120_000
"""Milliseconds."""

pytestmark = [
    pytest.mark.xdist_group("web"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="onnxruntime-web is not there, see examples/web/README.md"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve a copy of the page; yield its address and folder."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "onnxruntime-web").symlink_to(RUNTIME)
    spec = spec_from_file_location("serve", PAGE / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.make_server(folder, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, site: tuple[str, Path]) -> Iterator[Any]:
    """Yield a page that fails the test for an error on its console and a request to another host."""
    problems: list[str] = []
    context = browser.new_context(permissions=["camera"])
    opened = context.new_page()
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request", lambda sent: None if sent.url.startswith((site[0], "blob:", "data:")) else problems.append(sent.url)
    )
    yield opened
    context.close()
    assert not problems


def shown(page: Any, canvas: str) -> np.ndarray:
    """Return the pixels of a canvas."""
    data = page.evaluate(
        """async (id) => {
            const blob = await new Promise((done) => document.getElementById(id).toBlob(done));
            return [...new Uint8Array(await blob.arrayBuffer())];
        }""",
        canvas,
    )
    with Image.open(io.BytesIO(bytes(data))) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize(("width", "height", "bytes_per_pixel"), [(75, 50, 1000), (700, 300, 512 * 2**20 // 100_000)])
def test_the_page_makes_the_picture_of_the_command_line(
    page: Any,
    site: tuple[str, Path],
    network_file: Callable[..., Path],
    tmp_path: Path,
    width: int,
    height: int,
    bytes_per_pixel: int,
) -> None:
    stated = {"passes": 2, "strength": 0.75} if width < 100 else {}
    file = network_file(facts={"bytes_per_pixel": int(bytes_per_pixel / OVERHEAD) or 1, **stated})
    photo = picture(width, height)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    page.goto(f"{site[0]}?provider=wasm")
    page.set_input_files("#network", str(file))
    page.wait_for_selector("body[data-provider=wasm]", timeout=WAIT)
    page.fill("#seed", "7")
    page.set_input_files("#photo", str(tmp_path / "photo.png"))
    page.wait_for_selector("body[data-done]", timeout=WAIT)
    wanted = stylize(OnnxNetwork(file, threads=1), photo, Settings(seed=7, memory_limit=4096)).astype(int)
    assert np.abs(shown(page, "before") - photo).max() == 0
    assert np.abs(shown(page, "after") - wanted).max() <= 1
    assert "pixels in" in page.inner_text("#status")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "stylized.png"


def test_a_bundled_network_draws_in_the_browser(page: Any, site: tuple[str, Path], tmp_path: Path) -> None:
    """It takes no noise, and several passes."""
    file = BUNDLED / "ink-drawing-mobile.onnx"
    photo = np.asarray(Image.open(PAGE.parent / "coffee.jpg").convert("RGB").resize((180, 120)))
    Image.fromarray(photo).save(tmp_path / "photo.png")
    shutil.copy(file, site[1] / file.name)
    page.goto(f"{site[0]}?network={file.name}&provider=wasm")
    page.wait_for_selector("body[data-provider=wasm]", timeout=WAIT)
    page.set_input_files("#photo", str(tmp_path / "photo.png"))
    page.wait_for_selector("body[data-done]", timeout=WAIT)
    wanted = stylize(OnnxNetwork(file, threads=1), photo, Settings()).astype(int)
    assert np.abs(shown(page, "after") - wanted).mean() < 0.1
    assert np.abs(wanted - photo).mean() > 20


def test_noise_and_tiles_are_those_of_the_command_line(page: Any, site: tuple[str, Path]) -> None:
    page.goto(site[0])
    noise = page.evaluate('async () => [...(await import("./network.js")).noiseField(4294967295, 3, [2, 9], [5, 11])]')
    wanted = noise_field(4294967295, 3, (2, 9), (5, 11))
    np.testing.assert_allclose(np.reshape(noise, wanted.shape), wanted, atol=1e-6)
    spans = page.evaluate(
        """async () => (await import("./network.js")).splitAxis(1000, 320, 40, 8)
            .map(({ start, stop, weight }) => [start, stop, ...weight])"""
    )
    for (start, stop, *weight), span in zip(spans, split_axis(1000, 320, 40, 8), strict=True):
        assert (start, stop) == (span.start, span.stop)
        np.testing.assert_allclose(weight, span.weight, atol=1e-6)
    rule = TileRule(largest=2**18, side=256, overlap=64)
    facts = FACTS | {"context": None, "bytes_per_pixel": 500, "tiles": asdict(rule)}
    for width, height in ((1001, 700), (512, 512), (1001, 500)):  # at 500 a tile would begin between two cells
        spans = page.evaluate(
            """async ([facts, width, height]) => (await import("./network.js"))
                .chooseSplit(facts, width, height)(height)
                .map(({ start, stop, weight }) => [start, stop, ...weight])""",
            [facts, width, height],
        )
        whole = width * height <= rule.largest
        wanted = split_evenly(height, height if whole else rule.side, rule.overlap, 8)
        for (start, stop, *weight), span in zip(spans, wanted, strict=True):
            assert (start, stop) == (span.start, span.stop)
            np.testing.assert_allclose(weight, span.weight, atol=1e-6)


def test_the_camera_is_stylized(page: Any, site: tuple[str, Path], network_file: Callable[..., Path]) -> None:
    shutil.copy(network_file(), site[1] / "blur.onnx")
    page.goto(f"{site[0]}?network=blur.onnx")
    page.wait_for_selector("body[data-provider]", timeout=WAIT)
    page.click("#camera")
    for _ in range(600):
        if int(page.evaluate("document.body.dataset.frames || 0")) >= 3:
            break
        page.wait_for_timeout(200)
    page.click("#camera")
    assert "pictures a second" in page.inner_text("#status")
    assert shown(page, "after").std() > 1


def test_a_file_that_is_no_network_is_named(page: Any, site: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07")
    page.goto(site[0])
    page.set_input_files("#network", str(tmp_path / "a.onnx"))
    page.wait_for_selector("#status:has-text('not a network')", timeout=WAIT)
