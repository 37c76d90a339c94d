"""The wheel: everything in it that the sources have, and it works from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from stylescore import __version__

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "stylescore"

pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside the libraries of this interpreter, but apart from the sources."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder


def call(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a folder that has no sources."""
    return subprocess.run(
        [sys.executable, str(installed / "bin" / "stylescore"), *arguments],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    expected = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {name for name in names if name.startswith("stylescore/")} == expected
    assert "stylescore/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))

    assert (metadata["Name"], metadata["Version"]) == ("stylescore", __version__)
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().startswith("# stylescore")


def test_the_installed_program_runs(installed: Path) -> None:
    told = call(installed, "--version")

    assert (told.returncode, told.stdout) == (0, f"stylescore {__version__}\n")
    assert call(installed, "--help").returncode == 0


def test_the_bundled_model_comes_along(installed: Path) -> None:
    mini = installed / "stylescore" / "catalog" / "bundled" / "mini"

    listed = json.loads(call(installed, "styles", "--json").stdout)["styles"]
    bundled = [Path(entry["path"]) for entry in listed if entry["bundled"]]

    assert (mini / "model_index.json").is_file()
    assert (mini / "preset.toml").is_file()
    assert bundled
    assert all(path.is_relative_to(mini / "styles") and path.is_file() for path in bundled)
