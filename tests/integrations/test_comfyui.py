"""The ComfyUI nodes, with a replacement of as much of ComfyUI's interface as they use."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "comfyui"
QUICK = {"caption": "a cup", "content": 0.5, "seed": 3, "iterations": 6, "size": 64}


class InterruptProcessingException(Exception):
    """ComfyUI's own."""


class Comfy:
    """What ComfyUI was told, and what its user does."""

    def __init__(self, loras: Path) -> None:
        self.loras = loras
        self.progress: list[tuple[float, float, Any]] = []
        self.interrupt_at = 10**9

    def modules(self) -> dict[str, ModuleType]:
        return {
            "folder_paths": self._module(
                "folder_paths",
                get_filename_list=lambda kind: sorted(path.name for path in self.loras.glob("*.safetensors")),
                get_full_path_or_raise=lambda kind, name: str(self.loras / name),
            ),
            "comfy": self._module("comfy"),
            "comfy.model_management": self._module(
                "comfy.model_management", throw_exception_if_processing_interrupted=self._throw
            ),
            "comfy_api": self._module("comfy_api"),
            "comfy_api.latest": self._module(
                "comfy_api.latest", io=_io(), ComfyExtension=object, ComfyAPISync=lambda: self._api()
            ),
        }

    def _throw(self) -> None:
        if len(self.progress) >= self.interrupt_at:
            self.interrupt_at = 10**9
            raise InterruptProcessingException

    def _api(self) -> SimpleNamespace:
        def set_progress(value: float, max_value: float, node_id: Any = None, preview_image: Any = None) -> None:
            self.progress.append((value, max_value, preview_image))

        return SimpleNamespace(execution=SimpleNamespace(set_progress=set_progress))

    @staticmethod
    def _module(name: str, **parts: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(parts)
        return module


def _io() -> SimpleNamespace:
    """Return a replacement of `comfy_api.latest.io`: inputs and outputs are their arguments."""

    def kind(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            Input=lambda id, **options: SimpleNamespace(id=id, type=name, **options),
            Output=lambda id=None, **options: SimpleNamespace(type=name, **options),
        )

    return SimpleNamespace(
        ComfyNode=object,
        Schema=lambda **fields: SimpleNamespace(**fields),
        NodeOutput=lambda *results: results,
        Custom=kind,
        **{name: kind(name.upper()) for name in ("Image", "Combo", "String", "Float", "Int")},
    )


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
    for name in ("stylescore_nodes", "stylescore_nodes.nodes"):
        del sys.modules[name]


@pytest.fixture
def stylizer(nodes: Any, parity: Path) -> Any:
    (loaded,) = nodes.LoadStylizer.execute(style="my-lora.safetensors", model=str(parity / "tiny_base"), device="cpu")
    return loaded


def images(count: int = 1) -> torch.Tensor:
    """Return [count, 64, 96, 3] in 0..1."""
    return torch.rand(count, 64, 96, 3, generator=torch.Generator().manual_seed(0))


def test_the_extension_offers_both_nodes_under_ids_that_workflows_keep(nodes: Any) -> None:
    found = asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())
    assert [node.define_schema().node_id for node in found] == ["StyleScore_Load", "StyleScore_Stylize"]


def test_execute_takes_what_the_schema_names(nodes: Any) -> None:
    from inspect import signature

    for node in (nodes.LoadStylizer, nodes.Stylize):
        assert list(signature(node.execute).parameters) == [each.id for each in node.define_schema().inputs]


def test_own_styles_and_lora_files_are_offered_and_found(nodes: Any, comfy: Comfy) -> None:
    style = nodes.LoadStylizer.define_schema().inputs[0]
    assert {"van-gogh", "my-lora.safetensors"} <= set(style.options)
    assert nodes.style_location("van-gogh") == "van-gogh"
    assert nodes.style_location("my-lora.safetensors") == str(comfy.loras / "my-lora.safetensors")


def test_a_batch_becomes_a_batch_with_progress_and_previews(nodes: Any, stylizer: Any, comfy: Comfy) -> None:
    with torch.inference_mode():  # as ComfyUI calls its nodes
        (made,) = nodes.Stylize.execute(stylizer=stylizer, image=images(2), **QUICK)
    assert made.shape == (2, 64, 96, 3)
    assert made.dtype == torch.float32
    assert 0 <= float(made.min()) < float(made.max()) <= 1
    values = [value for value, _, _ in comfy.progress]
    assert values == sorted(values)
    assert (values[-1], {most for _, most, _ in comfy.progress}) == (2, {2})
    last = np.asarray(comfy.progress[-1][2], dtype=np.float32) / 255
    assert np.abs(last - made[1].numpy()).max() == 0, "the result is the last preview"


def test_an_image_of_a_batch_is_the_image_alone(nodes: Any, stylizer: Any) -> None:
    (both,) = nodes.Stylize.execute(stylizer=stylizer, image=images(2), **QUICK)
    (second,) = nodes.Stylize.execute(stylizer=stylizer, image=images(2)[1:], **QUICK)
    assert torch.equal(both[1:], second)


def test_an_interrupt_ends_the_run_and_leaves_the_stylizer_as_it_was(nodes: Any, stylizer: Any, comfy: Comfy) -> None:
    (whole,) = nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    comfy.progress.clear()
    comfy.interrupt_at = 3
    with pytest.raises(InterruptProcessingException):
        nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    assert len(comfy.progress) == 3
    (again,) = nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    assert torch.equal(whole, again)


def test_what_cannot_be_used_is_said_with_its_hint(nodes: Any, stylizer: Any) -> None:
    with pytest.raises(ValueError, match="there is no model 'nothing'\n"):
        nodes.LoadStylizer.execute(style="van-gogh", model="nothing", device="cpu")
    with pytest.raises(ValueError, match="size must be between 64 and 8192, not 8"):
        nodes.Stylize.execute(stylizer=stylizer, image=images(), **{**QUICK, "size": 8})
