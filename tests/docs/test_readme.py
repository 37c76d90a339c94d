"""Every command and Python block of README and documentation runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_COMMANDS = [page for page in PAGES if "```bash" in page.read_text(encoding="utf-8")]
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
LONGEST = 150


def called(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=called)
def test_every_command_runs(page: Path, pages: Any, sandbox: Path) -> None:
    for command in pages.commands(page):
        pages.run(command)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=called)
def test_every_python_block_runs(page: Path, sandbox: Path) -> None:
    blocks = list(Document.parse(str(page), PythonCodeBlockParser()).examples())
    assert blocks
    for block in blocks:
        block.evaluate()


def test_the_readme_runs_the_program_and_stays_short(pages: Any) -> None:
    readme = ROOT / "README.md"
    found = pages.commands(readme)
    assert "make demo" in found
    assert "make test" in found
    assert any(command.startswith("stylescore stylize photo.jpg") for command in found)
    assert any(command.startswith("stylescore stylize examples/") for command in found)
    assert len(readme.read_text(encoding="utf-8").splitlines()) < LONGEST


def test_the_kinds_of_adapter_that_the_readme_lists_are_those_of_the_code() -> None:
    from stylescore.lora.kinds import KINDS
    from stylescore.lora.reading import _USE_SUPPORTED

    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    listed = _USE_SUPPORTED.removeprefix("use a ").removesuffix(" in safetensors format").replace(" or ", " and ")
    assert f"your style folder: {listed}, as kohya" in readme
    shapes = ((2, 2), (2, 2, 3, 3))
    kinds = {kind.name({role: shape}) for kind in KINDS for role in kind.roles for shape in shapes}
    changes = {"full difference", "whole weights", "sparse difference", ""}
    assert {"DoRA", *(kinds - changes)} == set(listed.replace(" and ", ", ").split(", "))


def test_photos_that_the_readme_names_in_the_repository_are_there() -> None:
    named = set(re.findall(r"examples/[\w-]+\.jpg", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_readme_says_how_to_reach_the_program_and_how_much_is_installed(pages: Any) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = pages.commands(ROOT / "README.md")
    order = [found.index(start) for start in ("python3 -m venv .venv", ". .venv/bin/activate", "pip install .")]
    assert order == sorted(order)
    for words in ("uv tool install .", "pipx install .", "GB are installed"):
        assert words in readme


def test_what_a_run_leaves_behind_is_what_the_readme_lists(sandbox: Path, pages: Any) -> None:
    pages.run("stylescore stylize photo.jpg --style oil-painting --gif --preview-every 2 --quiet")
    folder = sandbox / "out" / "photo-oil-painting"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in folder.iterdir():
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in readme, path.name


def test_relative_links_of_the_documents_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"):
        page = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("docs/images/"):
                assert (page.parent / target).exists(), f"{name} links to {target}"
