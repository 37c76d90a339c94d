"""The wheel: everything in it that the sources have, and it works from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from PIL import Image

from stylescore import __version__

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "stylescore"
APPLY = ROOT / "apply" / "src" / "stylescore_apply"

pytestmark = pytest.mark.xdist_group("packaging")


def build(project: Path, folder: Path) -> Path:
    """Build a project's wheel in a folder."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=project,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT / "apply", tmp_path_factory.mktemp("small-wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("installed"))


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel beside the libraries of this interpreter, but apart from the sources."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder


def call(installed: Path, *arguments: str, program: str = "stylescore") -> subprocess.CompletedProcess[str]:
    """Run the installed program in a folder that has no sources."""
    return subprocess.run(
        [sys.executable, str(installed / "bin" / program), *arguments],
        capture_output=True,
        text=True,
        cwd=installed.parent,
        env=os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def files_of(package: Path) -> set[str]:
    """Return the files of a package's sources, as a wheel names them."""
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(package.parent).as_posix() for path in files}


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {name for name in names if ".dist-info/" not in name} == files_of(SOURCE) | files_of(APPLY)
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


def test_the_small_wheel_has_the_package_of_applying_alone(small_wheel: Path) -> None:
    with zipfile.ZipFile(small_wheel) as archive:
        names = set(archive.namelist())
        (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))

    assert {name for name in names if ".dist-info/" not in name} == files_of(APPLY)
    assert (metadata["Name"], metadata["Version"]) == ("stylescore-apply", __version__)
    plain = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    assert sorted(each.split(">")[0] for each in plain) == ["numpy", "onnxruntime", "pillow"]


def test_both_projects_have_one_version_and_licence() -> None:
    from stylescore_apply import __version__ as version

    assert version == __version__
    assert (ROOT / "apply" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_what_applying_needs_stylescore_needs_too() -> None:
    small, large = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (ROOT / "apply", ROOT)
    )
    assert set(small["dependencies"]) <= set(large["dependencies"])
    for extra, requirements in small["optional-dependencies"].items():
        assert large["optional-dependencies"][extra] == requirements


def test_the_small_program_runs_without_torch(small_wheel: Path, tmp_path: Path) -> None:
    import onnx
    from tests.apply.tiny import build as build_network

    folder = install(small_wheel, tmp_path / "installed")
    (folder / "torch.py").write_text("raise ImportError('applying must not import torch')")
    onnx.save(build_network(), tmp_path / "blur.onnx")
    Image.new("RGB", (40, 24), "teal").save(tmp_path / "a.png")

    done = call(folder, "blur.onnx", "a.png", "--out", "made", program="stylescore-apply")

    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "made" / "a.png") as picture:
        assert picture.size == (40, 24)
