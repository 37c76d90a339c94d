"""The ComfyUI nodes, with a replacement of as much of ComfyUI's interface as they use."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.apply.tiny import build

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


COMMON = ("id", "display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link")
WIDGET = (*COMMON, "default", "socketless")
INPUTS = {
    "IMAGE": COMMON,
    "MASK": COMMON,
    "STYLESCORE_STYLIZER": COMMON,
    "INT": (*WIDGET, "force_input", "min", "max", "step", "control_after_generate", "display_mode"),
    "FLOAT": (*WIDGET, "force_input", "min", "max", "step", "round", "display_mode"),
    "STRING": (*WIDGET, "force_input", "multiline", "placeholder", "dynamic_prompts"),
    "COMBO": (*WIDGET, "options", "control_after_generate", "upload", "image_folder", "remote"),
}
"""Arguments of the inputs, as `comfy_api/latest/_io.py` has them; later versions have more."""
OUTPUT = ("id", "display_name", "tooltip", "is_output_list")
SCHEMA = ("node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_output_node")


def _record(known: tuple[str, ...], first: str = "id", **fixed: Any) -> Any:
    """Return a function that keeps its arguments, and takes only those that are known."""

    def make(*given: Any, **options: Any) -> SimpleNamespace:
        options |= dict(zip((first,), given, strict=False))
        unknown = set(options) - set(known)
        if unknown or len(given) > 1:
            raise TypeError(f"unexpected arguments {unknown or given}")
        return SimpleNamespace(**{"optional": False, **options, **fixed})

    return make


def _io() -> SimpleNamespace:
    """Return a replacement of `comfy_api.latest.io`: inputs and outputs are their arguments."""

    def kind(name: str) -> SimpleNamespace:
        return SimpleNamespace(Input=_record(INPUTS[name], type=name), Output=_record(OUTPUT, type=name))

    return SimpleNamespace(
        ComfyNode=object,
        Schema=_record(SCHEMA),
        NodeOutput=lambda *results: results,
        Custom=kind,
        **{name: kind(name.upper()) for name in ("Image", "Mask", "Combo", "String", "Float", "Int")},
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


def test_the_extension_offers_its_nodes_under_ids_that_workflows_keep(nodes: Any) -> None:
    found = asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())
    assert [node.define_schema().node_id for node in found] == [
        "StyleScore_Load",
        "StyleScore_Stylize",
        "StyleScore_Apply",
    ]


def test_execute_takes_what_the_schema_names(nodes: Any) -> None:
    from inspect import signature

    for node in (nodes.LoadStylizer, nodes.Stylize, nodes.ApplyGenerator):
        assert list(signature(node.execute).parameters) == [each.id for each in node.define_schema().inputs]


def test_own_styles_and_lora_files_are_offered_and_found(nodes: Any, comfy: Comfy) -> None:
    style = nodes.LoadStylizer.define_schema().inputs[0]
    assert {"van-gogh", "my-lora.safetensors"} <= set(style.options)
    assert nodes.style_location("van-gogh") == "van-gogh"
    assert nodes.style_location("my-lora.safetensors") == str(comfy.loras / "my-lora.safetensors")


def test_a_batch_becomes_a_batch_with_progress_and_previews(nodes: Any, stylizer: Any, comfy: Comfy) -> None:
    with torch.inference_mode():  # as ComfyUI calls its nodes
        made, relevance = nodes.Stylize.execute(stylizer=stylizer, image=images(2), **QUICK)
    assert relevance.shape == (2, 64, 96)
    assert 0 <= float(relevance.min()) <= float(relevance.max()) <= 1
    assert made.shape == (2, 64, 96, 3)
    assert made.dtype == torch.float32
    assert 0 <= float(made.min()) < float(made.max()) <= 1
    values = [value for value, _, _ in comfy.progress]
    assert values == sorted(values)
    assert (values[-1], {most for _, most, _ in comfy.progress}) == (2, {2})
    last = np.asarray(comfy.progress[-1][2], dtype=np.float32) / 255
    assert np.abs(last - made[1].numpy()).max() == 0, "the result is the last preview"


def test_an_image_of_a_batch_is_the_image_alone(nodes: Any, stylizer: Any) -> None:
    both, _ = nodes.Stylize.execute(stylizer=stylizer, image=images(2), **QUICK)
    second, _ = nodes.Stylize.execute(stylizer=stylizer, image=images(2)[1:], **QUICK)
    assert torch.equal(both[1:], second)


def test_an_interrupt_ends_the_run_and_leaves_the_stylizer_as_it_was(nodes: Any, stylizer: Any, comfy: Comfy) -> None:
    whole, _ = nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    comfy.progress.clear()
    comfy.interrupt_at = 3
    with pytest.raises(InterruptProcessingException):
        nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    assert len(comfy.progress) == 3
    again, _ = nodes.Stylize.execute(stylizer=stylizer, image=images(), **QUICK)
    assert torch.equal(whole, again)


def test_what_cannot_be_used_is_said_with_its_hint(nodes: Any, stylizer: Any) -> None:
    with pytest.raises(ValueError, match="there is no model 'nothing'\n"):
        nodes.LoadStylizer.execute(style="van-gogh", model="nothing", device="cpu")
    with pytest.raises(ValueError, match="size must be between 64 and 8192, not 8"):
        nodes.Stylize.execute(stylizer=stylizer, image=images(), **{**QUICK, "size": 8})


@pytest.mark.parametrize("shape", [(64, 96), (1, 64, 96), (2, 64, 96)])
def test_the_photo_stays_where_the_mask_is_0(nodes: Any, stylizer: Any, shape: tuple[int, ...]) -> None:
    mask = torch.ones(shape)
    mask[..., :48] = 0
    photos = (images(2) * 255).round() / 255
    made, relevance = nodes.Stylize.execute(stylizer=stylizer, image=photos, mask=mask, **QUICK)
    assert torch.equal(made[:, :, :48], photos[:, :, :48])
    assert not torch.equal(made[:, :, 60:], photos[:, :, 60:])
    assert float(relevance[:, :, :40].max()) < float(relevance[:, :, 60:].max())


def test_masks_are_one_or_one_for_each_image(nodes: Any, stylizer: Any) -> None:
    with pytest.raises(ValueError, match="not 3 for 2 images"):
        nodes.Stylize.execute(stylizer=stylizer, image=images(2), mask=torch.ones(3, 64, 96), **QUICK)


def test_a_generator_is_applied_and_interrupted(
    nodes: Any, comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(build(), tmp_path / "mine.onnx")
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path))
    assert "mine" in nodes.ApplyGenerator.define_schema().inputs[0].options
    (made,) = nodes.ApplyGenerator.execute(generator="mine", image=images(2), seed=1, strength=1.0)
    (second,) = nodes.ApplyGenerator.execute(generator="mine", image=images(2)[1:], seed=1, strength=1.0)
    assert made.shape == (2, 64, 96, 3)
    assert torch.equal(made[1:], second)
    (photo,) = nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=0.0)
    assert float((photo - images()).abs().max()) <= 0.5 / 255 + 1e-6
    with pytest.raises(ValueError, match="no generator 'other'"):
        nodes.ApplyGenerator.execute(generator="other", image=images(), seed=1, strength=1.0)
    comfy.interrupt_at = 0
    with pytest.raises(InterruptProcessingException):
        nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=1.0)


def test_the_example_workflow_is_of_these_nodes(nodes: Any) -> None:
    schemas = [node.define_schema() for node in (nodes.LoadStylizer, nodes.Stylize)]
    known = {schema.node_id: schema for schema in schemas}
    (file,) = (FOLDER / "example_workflows").glob("*.json")
    table = json.loads(file.read_text(encoding="utf-8"))
    placed = {node["id"]: node for node in table["nodes"]}
    for node in placed.values():
        schema = known.get(node["type"])
        if schema is None:
            assert node["type"] in ("LoadImage", "PreviewImage")
            continue
        sockets = [each for each in schema.inputs if each.type in ("IMAGE", "MASK", "STYLESCORE_STYLIZER")]
        assert [(each["name"], each["type"]) for each in node["inputs"]] == [(each.id, each.type) for each in sockets]
        assert [each["type"] for each in node["outputs"]] == [each.type for each in schema.outputs]
        widgets = [each for each in schema.inputs if each not in sockets]
        controls = sum(1 for each in widgets if getattr(each, "control_after_generate", False))
        assert len(node["widgets_values"]) == len(widgets) + controls
    for number, start, slot, end, socket, kind in table["links"]:
        output, entry = placed[start]["outputs"][slot], placed[end]["inputs"][socket]
        assert (output["type"], entry["type"], entry["link"]) == (kind, kind, number)
        assert number in output["links"]
