"""A folder of pictures, the tiny base, and trainings of it that take a second."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw

PARITY = Path(__file__).parents[1] / "data" / "parity"
TINY = PARITY / "tiny_base"
QUICK = {"resolution": 64, "samples_every": 0, "checkpoint_every": 0, "device": "cpu"}


def draw(path: Path, number: int) -> None:
    """Draw a disc on a coloured ground."""
    picture = Image.new("RGB", (80 + 8 * number, 72), (200, 40 * number, 30))
    ImageDraw.Draw(picture).ellipse((10, 10, 50 + 4 * number, 50), fill=(0, 60 * number, 200))
    picture.save(path)


@pytest.fixture(autouse=True)
def own_styles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a style folder of its own, which does not exist yet."""
    folder = tmp_path / "styles"
    monkeypatch.setenv("STYLESCORE_STYLES", str(folder))
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Let every test choose its precision: accelerate keeps the first one of a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def short_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw sample sheets in two steps."""
    from stylescore.training import samples

    monkeypatch.setattr(samples, "STEPS", 2)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of four different pictures with captions beside them."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        draw(folder / f"p{number}.png", number)
        (folder / f"p{number}.txt").write_text(f"disc number {number}\n", encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a call of the program came to."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> tuple[str, str]:
        """The error and the hint, once nothing else is known to have been said."""
        lines = self.err.splitlines()
        assert self.code == 2, self.err
        assert self.out == ""
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"], self.err
        return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return the program as a function."""
    from stylescore.cli.main import exit_code

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = exit_code([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def train_style(program: Callable[..., Outcome], pictures: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Return `stylescore train-style` on the tiny base, quietly and shortly; later options win over these."""
    quick = [item for key, value in QUICK.items() for item in (f"--{key.replace('_', '-')}", value)]

    def call(*arguments: object, folder: Path = pictures, name: str = "discs") -> Outcome:
        fixed = ("--name", name, "--model", TINY, "--output", tmp_path / "out", "--steps", 3)
        return program("train-style", folder, "--quiet", *fixed, *quick, "--set", "warmup=0", *arguments)

    return call


@pytest.fixture
def session(pictures: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a maker of trainings that are ready to run, by the settings that differ."""
    from stylescore.images.captions import CaptionSource
    from stylescore.training.cache import Cache
    from stylescore.training.plan import Request, make_plan
    from stylescore.training.session import encode, load_base, start

    def make(**given: Any) -> Any:
        table = {"name": "discs", "model": str(TINY), "steps": 3, "batch": 2, "rank": 4, "warmup": 0, **QUICK, **given}
        plan = make_plan(Request(pictures=pictures, given=table, captions=CaptionSource()), sheets=2)
        base = load_base(plan)
        cache = next(event for event in encode(base, plan) if isinstance(event, Cache))
        return start(base, plan, cache, tmp_path / "out")

    return make


@pytest.fixture
def tools(tmp_path: Path) -> SimpleNamespace:
    """Return what tests read results with."""
    return SimpleNamespace(
        tiny=TINY,
        draw=draw,
        rows=lambda folder: [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()],
        out=tmp_path / "out",
    )
