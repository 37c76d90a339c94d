"""`stylize --fast`: the picture of `apply`, found by the style's name, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jaxtyping import config
from PIL import Image
from tests.apply.tiny import build

from stylescore.catalog import registry
from stylescore.generators.files import read_facts
from stylescore_apply.names import BUNDLED

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_checks() -> Iterator[None]:
    """Turn off the checks of types: typer's context is of another class than its annotation."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def generator(own_styles: Path) -> Path:
    """Return the exported network of a style in the user's folder."""
    onnx.save(build({"style": "blur"}), own_styles / "blur.onnx")
    return own_styles / "blur.onnx"


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of bundled generators with one of `van-gogh`, whose style is bundled too."""
    folder = tmp_path / "bundled" / "mini"
    (folder / "styles").mkdir(parents=True)
    (folder / "generators").mkdir()
    shutil.copy(ROOT / "tests/data/parity/style_lora_kohya.safetensors", folder / "styles" / "van-gogh.safetensors")
    onnx.save(build(), folder / "generators" / "van-gogh.onnx")
    monkeypatch.setattr(registry, "BUNDLED", folder.parent)
    return folder / "generators"


def test_apply_names_the_closest_generator_also_a_lora(program: Any, photo: Path, bundled: Path) -> None:
    (bundled / "van-gogh.onnx").rename(bundled / "van-gogh.safetensors")
    outcome = program("apply", "van-goh", photo)
    assert outcome.complaint == ["there is no network of the style 'van-goh'", "did you mean 'van-gogh'?"]


def test_the_picture_is_that_of_apply(program: Any, photo: Path, out: Path, generator: Path) -> None:
    fast = program("stylize", photo, "--style", "blur", "--fast", "--seed", 3, "--output", out)
    applied = program("apply", "blur", photo, "--seed", 3, "--out", out / "applied")
    assert fast.picture == out / "blur" / "input_128x128.png"
    assert fast.picture.read_bytes() == applied.picture.read_bytes()
    other = program("stylize", photo, "--style", "blur", "--fast", "--seed", 4, "--output", out / "other")
    assert other.picture.read_bytes() != fast.picture.read_bytes()


def test_a_bundled_generator_is_found_by_both_commands(program: Any, photo: Path, out: Path, bundled: Path) -> None:
    fast = program("stylize", photo, "--style", "van-gogh", "--fast", "--output", out)
    applied = program("apply", "van-gogh", photo, "--out", out / "applied")
    assert fast.picture.read_bytes() == applied.picture.read_bytes()


@pytest.mark.parametrize(
    "file", sorted((registry.BUNDLED / "mini" / "generators").glob("*.safetensors")), ids=lambda f: f.stem
)
def test_a_shipped_generator_stylizes_with_the_bundled_model(program: Any, photo: Path, out: Path, file: Path) -> None:
    facts = read_facts(file)
    assert (facts.style, facts.base, facts.is_lora, facts.licence) == (file.stem, "mini", True, "Apache-2.0")
    assert registry.find_generator(file.stem) == file
    fast = program("stylize", photo, "--style", file.stem, "--fast", "--output", out)
    stated = [f"note: {facts.passes} passes with strength {facts.strength:g}, as the file states"]
    assert [line for line in fast.err.splitlines() if "note:" in line] == (stated if facts.passes > 1 else [])
    once = program("apply", file.stem, photo, "--passes", 1, "--out", out / "once")
    with Image.open(photo) as before, Image.open(fast.picture) as stated_picture, Image.open(once.picture) as after:
        assert before.size == stated_picture.size == after.size
        change = np.abs(np.asarray(before.convert("RGB"), float) - np.asarray(after.convert("RGB"), float)).mean()
    assert 2 < change < 60


def test_folders_lists_and_formats(program: Any, photo: Path, out: Path, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    shutil.copy(photo, tmp_path / "photos" / "deep" / "a.png")
    shutil.copy(photo, tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("b.png\n")
    call = ("stylize", tmp_path / "photos", "--list", tmp_path / "list.txt", "--style", "blur", "--fast", "--recursive")
    outcome = program(*call, "--format", "jpeg", "--quality", 80, "--output", out)
    assert outcome.paths == [out / "blur" / "deep" / "a.jpg", out / "blur" / "b.jpg"]
    assert all(Image.open(path).format == "JPEG" for path in outcome.paths)
    again = json.loads(program(*call, "--format", "jpeg", "--output", out, "--json").out)
    assert (again["made"], again["skipped"]) == (0, 2)


def test_a_lora_file_has_the_generator_beside_it(
    program: Any, photo: Path, out: Path, style: Path, tmp_path: Path
) -> None:
    shutil.copy(style, tmp_path / "mine.safetensors")
    onnx.save(build(), tmp_path / "mine.onnx")
    outcome = program("stylize", photo, "--style", tmp_path / "mine.safetensors", "--fast", "--output", out)
    assert outcome.picture == out / "mine" / "input_128x128.png"


def test_another_file_of_a_bundled_name_does_not_get_the_bundled_generator(
    program: Any, photo: Path, style: Path, tmp_path: Path, bundled: Path
) -> None:
    shutil.copy(style, tmp_path / "van-gogh.safetensors")
    message, _ = program("stylize", photo, "--style", tmp_path / "van-gogh.safetensors", "--fast").complaint
    assert message.startswith("there is no trained generator of the style")


def test_a_style_without_a_generator_is_said_in_one_line(
    program: Any, photo: Path, out: Path, generator: Path, own_styles: Path
) -> None:
    outcome = program("stylize", photo, "--style", "my-lora", "--fast", "--output", out)
    message, hint = outcome.complaint
    assert outcome.code == 2
    assert message == "there is no trained generator of the style 'my-lora'"
    assert hint.startswith("leave out --fast, or train one with stylescore train-generator")
    assert str(own_styles / "my-lora.onnx") in hint
    assert program("stylize", photo, "--style", "blurr", "--fast").complaint[1] == "did you mean 'blur'?"
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "option"),
    [
        (["--iterations", "5"], "--iterations"),
        (["--model", "other"], "--model"),
        (["--set", "weight=unit"], "--set"),
        (["--mask", "m.png"], "--mask"),
        (["--content", "0.2"], "--content"),
        (["--name", "{photo}"], "--name"),
        (["--gif"], "--gif"),
    ],
)
def test_options_of_a_run_are_refused(program: Any, photo: Path, generator: Path, more: list[str], option: str) -> None:
    message, hint = program("stylize", photo, "--style", "blur", "--fast", *more).complaint
    assert message == f"--fast applies a trained generator, which does not have {option}"
    assert hint == f"leave out {option}, or --fast"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["p.png", "--style", "blur", "--style", "other"], "--fast takes one --style without a weight, not blur other"),
        (["p.png", "--style", "blur=0.5"], "--fast takes one --style without a weight, not blur=0.5"),
        (["p.png"], "stylize needs a --style"),
        (["--style", "blur"], "stylize needs at least one PHOTO"),
        (["p.png", "--style", "blur"], "there is no file 'p.png'"),
        (["--resume", "folder"], "--resume takes all settings from the run folder and cannot be combined with --fast"),
    ],
)
def test_what_cannot_be_used_is_refused(program: Any, generator: Path, call: list[str], message: str) -> None:
    outcome = program("stylize", "--fast", *call)
    assert outcome.code == 2
    assert outcome.complaint[0].startswith(message)


def test_the_list_of_styles_says_which_have_one(program: Any, bundled: Path, own_styles: Path) -> None:
    shutil.copy(bundled.parent / "styles" / "van-gogh.safetensors", own_styles / "mine.safetensors")
    entries = {entry["name"]: entry for entry in json.loads(program("styles", "--json").out)["styles"]}
    assert entries["van-gogh"]["generator"] == str(bundled / "van-gogh.onnx")
    assert entries["mine"]["generator"] is entries["mine"]["mobile"] is None
    lines = {line.split()[0]: line for line in program("styles").out.splitlines()}
    assert "with a generator for --fast" in lines["van-gogh"]
    assert "generator" not in lines["mine"]


def test_the_list_of_styles_names_the_small_networks(program: Any, style: Path, own_styles: Path) -> None:
    shutil.copy(style, own_styles / "mine.safetensors")
    onnx.save(build(), own_styles / "mine-mobile.onnx")
    entries = {entry["name"]: entry for entry in json.loads(program("styles", "--json").out)["styles"]}
    assert entries["mine"]["mobile"] == str(own_styles / "mine-mobile.onnx")
    assert entries["ink-drawing"]["mobile"] == str(BUNDLED / "ink-drawing-mobile.onnx")
    said = program("styles").err.splitlines()
    assert all(len(line) <= 80 for line in said if "Your own" not in line)
    named = " ".join(said).split("Small networks for stylescore apply: ")[1].split(" Your own")[0].split(", ")
    assert {"ink-drawing-mobile", "mine-mobile"} <= set(named)


def test_nothing_of_it_imports_torch(photo: Path, out: Path, generator: Path) -> None:
    call = ["stylize", str(photo), "--style", "blur", "--fast", "--output", str(out)]
    lines = (
        "import sys",
        "from stylescore.cli.main import exit_code",
        f"sys.exit(exit_code({call!r}) or 'torch' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{out / 'blur' / 'input_128x128.png'}\n"), done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("has_generator", [False, True])
def test_the_demo_shows_both_results_where_there_is_a_generator(tmp_path: Path, has_generator: bool) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    generators = tmp_path / "src/stylescore/catalog/bundled/mini/generators"
    generators.mkdir(parents=True)
    if has_generator:
        (generators / "ink.onnx").touch()
    (tmp_path / "pyproject.toml").touch()
    call = ["make", "-n", "-o", ".venv/installed", "demo", "STYLE=ink"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if " stylize " in line]
    assert lines[0].endswith("--style ink --output out")
    assert [line.endswith("--style ink --fast --output out/fast") for line in lines[1:]] == [True] * has_generator
