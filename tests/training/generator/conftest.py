"""Photos, pairs and trainings of generators on the tiny base, each of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

PARITY = Path(__file__).parents[2] / "data" / "parity"
STYLE = PARITY / "style_lora_kohya.safetensors"
QUICK: dict[str, Any] = {
    "size": 64,
    "width": 4,
    "blocks": 1,
    "warmup": 0,
    "held_out": 2,
    "measure_every": 0,
    "samples_every": 0,
    "checkpoint_every": 0,
    "file_dtype": "float32",
    "pairs": {"count": 6, "batch": 2},
    "regression": {"steps": 3, "batch": 2, "perceptual": 0.1, "texture": 0.0},
    "matching": {"steps": 2, "batch": 2, "fake_steps": 2, "fake_warmup": 0, "method": {"fake": {"rank": 2}}},
}
METHOD = {"iterations": 2}


def draw_photo(path: Path, number: int) -> None:
    """Draw bands of colours that differ from photo to photo, in several shapes."""
    width, height = (96, 80) if number % 2 else (80, 104)
    picture = Image.linear_gradient("L").resize((width, height)).rotate(37 * number)
    Image.merge("RGB", (picture, picture.rotate(90), Image.new("L", (width, height), 20 * number))).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of eight photos; two have captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        draw_photo(folder / f"p{number}.png", number)
    (folder / "p1.txt").write_text("bands of colour", encoding="utf-8")
    (folder / "p2.txt").write_text("a dark sky", encoding="utf-8")
    return folder


@pytest.fixture
def generator_request(photos: Path, tools: SimpleNamespace) -> Callable[..., Any]:
    """Return a maker of requests, by the settings that differ."""
    from stylescore.assembly.options import make_run
    from stylescore.config.toml import merge_tables
    from stylescore.images.captions import CaptionSource
    from stylescore.training.generator.config import resolve
    from stylescore.training.generator.session import Request

    def make(method: str | None = None, *, folder: Path = photos, pair_folder: Path | None = None, **given: Any) -> Any:
        run = make_run(STYLE, model=str(tools.tiny), method=method, device="cpu")  # type: ignore[arg-type]
        config = resolve({"name": "bands", "run": {"method": METHOD}, **merge_tables(QUICK, given)}, run)
        return Request(photos=folder, config=config, captions=CaptionSource(), pair_folder=pair_folder)

    return make


@pytest.fixture
def generator_session(generator_request: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Return a maker of trainings whose pairs are made, by the settings that differ.

    The pairs are made once a test.
    """
    from stylescore.training.generator.session import Session, make_pairs, new_folder, pair_folder, set_up

    def make(method: str | None = None, **given: Any) -> Any:
        setup = set_up(generator_request(method, pair_folder=tmp_path / f"pairs-{method}", **given))
        folder = new_folder(setup, tmp_path / "out")
        if setup.pairs_wanted:
            list(make_pairs(setup, pair_folder(setup, folder)))
        return Session.open(setup, folder)

    return make
