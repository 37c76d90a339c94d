"""The small networks that come with the package: each is what its name says, and paints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore_apply import OnnxNetwork, Settings, stylize
from stylescore_apply.cli import exit_code
from stylescore_apply.names import BUNDLED, find_network, network_dirs

ROOT = Path(__file__).parents[2]
FILES = sorted(BUNDLED.glob("*.onnx"))


@pytest.fixture
def photo() -> np.ndarray:
    with Image.open(ROOT / "examples" / "coffee.jpg") as picture:
        return np.asarray(picture.convert("RGB").resize((160, 112)))


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with an empty style folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path / "styles"))
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_small_and_paints(file: Path, photo: np.ndarray) -> None:
    assert file.stat().st_size < 4e6
    network = OnnxNetwork(file, threads=1)
    facts = network.facts
    assert (f"{facts.style}-mobile", facts.network, facts.licence) == (file.stem, "mobile", "Apache-2.0")
    first, again, other = (stylize(network, photo, Settings(seed=seed)).astype(int) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 5 < np.abs(first - photo).mean() < 100
    if facts.noise_channels:
        assert np.abs(first - other).mean() > 0.3  # another hand
    else:
        np.testing.assert_array_equal(first, other)
    assert first.std() > 20  # no even picture


def test_each_style_has_another_network(photo: np.ndarray) -> None:
    pictures = [stylize(OnnxNetwork(file, threads=1), photo, Settings()).astype(int) for file in FILES]
    for index, first in enumerate(pictures):
        for second in pictures[index + 1 :]:
            assert np.abs(first - second).mean() > 5


def test_one_is_found_by_its_name(photo: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(photo).save("a.png")
    assert exit_code(["ink-drawing-mobile", "a.png", "--out", "made"]) == 0
    with Image.open("made/a.png") as picture:
        expected = stylize(OnnxNetwork(BUNDLED / "ink-drawing-mobile.onnx"), photo, Settings())
        np.testing.assert_array_equal(np.asarray(picture), expected)
    capsys.readouterr()
    assert exit_code(["ink-drawing", "a.png"]) == 2
    assert "hint: did you mean 'ink-drawing-mobile'?" in capsys.readouterr().err


def test_the_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--help"]) == 0
    printed = capsys.readouterr().out
    for file in FILES:
        assert file.stem in printed


def test_a_network_in_the_users_folder_does_not_replace_one(own_folder: Path) -> None:
    (own_folder / "styles").mkdir()
    (own_folder / "styles" / "ink-drawing-mobile.onnx").write_bytes(b"mine")
    assert find_network("ink-drawing-mobile", network_dirs()) == BUNDLED / "ink-drawing-mobile.onnx"


def test_the_record_names_every_network() -> None:
    record = (BUNDLED / "README.md").read_text(encoding="utf-8")
    assert FILES
    for file in FILES:
        assert f"`{file.name}`" in record
