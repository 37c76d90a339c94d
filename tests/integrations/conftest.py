"""The nodes of ComfyUI, imported with a replacement of ComfyUI's interface."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.diffusion.conftest import originals, single, tiny_family  # noqa: F401 - fixtures
from tests.integrations.comfy_stub import FOLDER, Comfy


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, parity: Path, tmp_path: Path) -> Comfy:
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path / "none"))
    (tmp_path / "my-lora.safetensors").write_bytes((parity / "style_lora_kohya.safetensors").read_bytes())
    found = Comfy(tmp_path)
    for name, module in found.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def nodes(comfy: Comfy) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location(
        "stylescore_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["stylescore_nodes"] = package
    spec.loader.exec_module(package)
    yield sys.modules["stylescore_nodes.nodes"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "stylescore_nodes"]:
        del sys.modules[name]
