"""The program run inside the test process: arguments in, exit code and both streams out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stylescore.cli.main import exit_code

PARITY = Path(__file__).parent.parent / "data" / "parity"
QUICK = ("--size", "64", "--iterations", "4")


@dataclass(frozen=True)
class Outcome:
    """What a call of the program came to."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        """The lines of stdout as paths."""
        return [Path(line) for line in self.out.splitlines()]

    @property
    def picture(self) -> Path:
        """The only path on stdout."""
        assert self.code == 0, self.err
        (path,) = self.paths
        return path

    @property
    def complaint(self) -> list[str]:
        """The lines of stderr, once they are known to be one error and one hint and nothing else was said."""
        lines = self.err.splitlines()
        assert self.out == ""
        assert len(lines) == 2, self.err
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("hint: ")
        return [lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")]


Program = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def own_styles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty style folder of its own."""
    folder = tmp_path / "styles"
    folder.mkdir()
    monkeypatch.setenv("STYLESCORE_STYLES", str(folder))
    return folder


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Program:
    """Return the program as a function."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = exit_code([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def photo() -> Path:
    return PARITY / "input_128x128.png"


@pytest.fixture
def other_photo(photo: Path, tmp_path: Path) -> Path:
    """Return the photo upside down, under another name."""
    path = tmp_path / "other.png"
    with Image.open(photo) as picture:
        picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    return path


@pytest.fixture
def tiny() -> Path:
    """Return a Stable Diffusion with random weights, small enough for every test."""
    return PARITY / "tiny_base"


@pytest.fixture
def style() -> Path:
    """Return a style LoRA for it."""
    return PARITY / "style_lora_kohya.safetensors"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder for runs that does not exist yet."""
    return tmp_path / "out"


@pytest.fixture
def stylize(program: Program, tiny: Path, style: Path, out: Path) -> Program:
    """Return `stylescore stylize` with the tiny model, quietly; later options win over these."""

    def call(*arguments: object, quiet: bool = True) -> Outcome:
        given = [str(argument) for argument in arguments]
        names = () if "--style" in given else ("--style", style)
        return program(
            *("stylize", "--model", tiny, "--output", out, *QUICK, *names), *(["--quiet"] if quiet else []), *given
        )

    return call


@pytest.fixture
def resume(program: Program) -> Program:
    return lambda *arguments: program("stylize", "--quiet", "--resume", *arguments)


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Return a way to make something happen at the end of iteration k, counted from 1."""
    import stylescore.runs.runner

    def arrange(count: int, happen: Callable[[], Any]) -> None:
        original = stylescore.runs.runner.step_row

        def step_row(iteration: Any, picture: int) -> Any:
            if iteration.index + 1 == count and picture == 0:
                happen()
            return original(iteration, picture)

        monkeypatch.setattr(stylescore.runs.runner, "step_row", step_row)

    return arrange


@pytest.fixture
def steps() -> Callable[[Path], list[dict[str, Any]]]:
    """Return a reader of a run folder's steps."""
    return lambda folder: [json.loads(line) for line in (folder / "steps.jsonl").read_text("utf-8").splitlines()]
