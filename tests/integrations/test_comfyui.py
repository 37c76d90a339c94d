"""The ComfyUI nodes, with a replacement of as much of ComfyUI's interface as they use."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.apply.tiny import build
from tests.integrations.comfy_stub import FOLDER, Comfy, InterruptProcessingException

QUICK = {"caption": "a cup", "content": 0.5, "seed": 3, "iterations": 6, "size": 64}


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
        "StyleScore_TakeModel",
        "StyleScore_Stylize",
        "StyleScore_Apply",
    ]


def test_execute_takes_what_the_schema_names(nodes: Any) -> None:
    from inspect import signature

    for node in (nodes.LoadStylizer, nodes.TakeModel, nodes.Stylize, nodes.ApplyGenerator):
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
    (twice,) = nodes.ApplyGenerator.execute(generator="mine", image=images(2), seed=1, strength=1.0, passes=2)
    (again,) = nodes.ApplyGenerator.execute(generator="mine", image=made, seed=1, strength=1.0)
    assert torch.allclose(twice, again, atol=1 / 255)
    (photo,) = nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=0.0)
    assert float((photo - images()).abs().max()) <= 0.5 / 255 + 1e-6
    with pytest.raises(ValueError, match="no generator 'other'"):
        nodes.ApplyGenerator.execute(generator="other", image=images(), seed=1, strength=1.0)
    comfy.interrupt_at = 0
    with pytest.raises(InterruptProcessingException):
        nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=1.0)


def test_a_network_is_kept_until_its_file_changes(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = nodes.open_network
    monkeypatch.setattr(nodes, "open_network", lambda file: loaded.append(file) or load(file))
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path))
    file = tmp_path / "mine.onnx"
    onnx.save(build(), file)
    for _ in range(2):
        nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=1.0)
    assert loaded == [file]
    os.utime(file, ns=(0, 1))
    nodes.ApplyGenerator.execute(generator="mine", image=images(), seed=1, strength=1.0)
    assert loaded == [file, file]


def test_a_bundled_generator_runs_on_the_bundled_model(nodes: Any) -> None:
    assert "van-gogh" in nodes.ApplyGenerator.define_schema().inputs[0].options
    (made,) = nodes.ApplyGenerator.execute(generator="van-gogh", image=images(), seed=1, strength=1.0)
    assert made.shape == (1, 64, 96, 3)
    assert 0.01 < float((made - images()).abs().mean()) < 0.5


FROM_COMFY = ("LoadImage", "PreviewImage", "CheckpointLoaderSimple")
SOCKETS = ("IMAGE", "MASK", "MODEL", "CLIP", "VAE", "STYLESCORE_STYLIZER")


@pytest.mark.parametrize("file", sorted((FOLDER / "example_workflows").glob("*.json")), ids=lambda file: file.stem)
def test_an_example_workflow_is_of_these_nodes(nodes: Any, file: Path) -> None:
    schemas = [node.define_schema() for node in (nodes.LoadStylizer, nodes.TakeModel, nodes.Stylize)]
    known = {schema.node_id: schema for schema in schemas}
    table = json.loads(file.read_text(encoding="utf-8"))
    placed = {node["id"]: node for node in table["nodes"]}
    assert any(node["type"] in known for node in placed.values())
    for node in placed.values():
        schema = known.get(node["type"])
        if schema is None:
            assert node["type"] in FROM_COMFY
            continue
        sockets = [each for each in schema.inputs if each.type in SOCKETS]
        assert [(each["name"], each["type"]) for each in node["inputs"]] == [(each.id, each.type) for each in sockets]
        assert [each["type"] for each in node["outputs"]] == [each.type for each in schema.outputs]
        widgets = [each for each in schema.inputs if each not in sockets]
        controls = sum(1 for each in widgets if getattr(each, "control_after_generate", False))
        assert len(node["widgets_values"]) == len(widgets) + controls
    for number, start, slot, end, socket, kind in table["links"]:
        output, entry = placed[start]["outputs"][slot], placed[end]["inputs"][socket]
        assert (output["type"], entry["type"], entry["link"]) == (kind, kind, number)
        assert number in output["links"]
