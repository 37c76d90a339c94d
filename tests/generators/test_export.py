"""Exported generators: they compute what torch computes, for every size, and nothing else is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

from stylescore.cli.main import exit_code
from stylescore.errors import ConfigError, ModelError
from stylescore.generators import export
from stylescore.generators.export import TOLERANCE, export_onnx, needed_context
from stylescore.generators.exported import read_exported
from stylescore.generators.files import GeneratorFacts, save_generator
from stylescore.generators.kinds import make_generator, resolve_options
from stylescore_apply.networks import OnnxNetwork
from stylescore_apply.stylizing import OVERHEAD, Settings, stylize, tile_side

pytestmark = pytest.mark.xdist_group("export")

KINDS: dict[str, tuple[str, dict[str, int], int]] = {
    "mobile": ("mobile", {"width": 8, "blocks": 2}, 3),
    "resnet": ("resnet9", {"width": 4, "blocks": 1}, 0),
}


def make(kind: str) -> tuple[nn.Module, GeneratorFacts]:
    """Return a tiny generator of random weights, none of which is zero."""
    network, options, channels = KINDS[kind]
    torch.manual_seed(0)
    module = make_generator(network, options, channels).eval().requires_grad_(False)
    for tensor in module.parameters():
        if tensor.ndim > 1:
            nn.init.normal_(tensor, std=0.5 / tensor[0].numel() ** 0.5)
    numbers = resolve_options(network, options)
    known = {"style": "tiny", "noise_channels": channels, "passes": 2, "strength": 0.8, "licence": "CC0-1.0"}
    return module, GeneratorFacts(network=network, options=numbers, **known)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def no_checks() -> Iterator[None]:
    """Turn off the checks of types, since sizes are symbols and no numbers while a network is traced."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, Any]:
    """Return a file, the module it was made from, and what was found."""
    module, facts = make(request.param)
    path = tmp_path_factory.mktemp("exported") / f"{request.param}.onnx"
    return path, module, export_onnx(path, module, facts)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (1, 77, 130), (3, 40, 56), (1, 8, 200)])
def test_the_file_computes_what_torch_computes(
    exported: tuple[Path, nn.Module, Any], batch: int, height: int, width: int
) -> None:
    path, module, found = exported
    network = OnnxNetwork(path, threads=1)
    rng = torch.Generator().manual_seed(5)
    photo = torch.rand(batch, 3, height, width, generator=rng)
    channels = network.facts.noise_channels
    noise = torch.randn(batch, channels, -(-height // 8), -(-width // 8), generator=rng) if channels else None
    picture = network(photo.numpy(), None if noise is None else noise.numpy())
    assert picture.shape == photo.shape
    assert np.abs(picture - module(photo, noise).numpy()).max() < TOLERANCE
    assert found.difference < TOLERANCE
    assert picture.std() > 0.01  # a constant would agree too


def test_it_has_the_generators_facts(exported: tuple[Path, nn.Module, Any]) -> None:
    path, module, found = exported
    facts = OnnxNetwork(path).facts
    network, _, channels = KINDS[path.stem]
    assert (facts.network, facts.style, facts.noise_channels, facts.licence) == (network, "tiny", channels, "CC0-1.0")
    assert (facts.noise_scale, facts.multiple, facts.version) == (8, 8, 1)
    assert (facts.passes, facts.strength) == (2, 0.8)
    assert facts.context == found.context
    assert (facts.context is None) == (module.context is None)
    model = onnx.load(path)
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(stored["stylescore.generator"])["options"] == resolve_options(network, KINDS[path.stem][1])
    assert stored["licence"] == "CC0-1.0"
    assert [entry.name for entry in model.graph.input] == (["photo", "noise"] if channels else ["photo"])


def test_weights_are_stored_in_half_precision(exported: tuple[Path, nn.Module, Any]) -> None:
    path, module, _ = exported
    numbers = sum(tensor.numel() for tensor in module.state_dict().values())
    large = [each for each in onnx.load(path).graph.initializer if np.prod(each.dims) >= 64]
    assert large
    assert {each.data_type for each in large} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    assert sum(int(np.prod(each.dims)) for each in large) > 0.5 * numbers


def test_a_file_is_read_back_as_it_was_written(exported: tuple[Path, nn.Module, Any]) -> None:
    """The exporting module has the rounded weights."""
    path, module, _ = exported
    found, facts = read_exported(path)
    assert facts == make(path.stem)[1]
    assert not found.training
    state = module.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def _rename(model: onnx.ModelProto, name: str, to: str) -> None:
    for entry in model.graph.initializer:
        entry.name = entry.name.replace(name, to)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [each.replace(name, to) for each in names]


def _lose_weights(model: onnx.ModelProto) -> None:
    _rename(model, "down.0.weight", "something")
    model.graph.initializer.extend([onnx.numpy_helper.from_array(np.zeros(3, np.float32), "down.0.weight")])
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["down.0.weight"], ["unused"]))


def _exchange_weights(model: onnx.ModelProto) -> None:
    _rename(model, "body.0.filter", "other")
    _rename(model, "body.1.filter", "body.0.filter")
    _rename(model, "other", "body.1.filter")


def _state_a_lora(model: onnx.ModelProto) -> None:
    _state(model, network="lora")


def _state_other_options(model: onnx.ModelProto) -> None:
    _state(model, options={"width": -1})


def _state(model: onnx.ModelProto, **facts: Any) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "stylescore.generator")
    entry.value = json.dumps({**json.loads(entry.value), **facts})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_lose_weights, "lacks the weights 'down.0.weight'"),
        (_exchange_weights, "read back makes pictures that differ by"),
        (_state_a_lora, "holds a LoRA together with its model"),
        (_state_other_options, "cannot be used: width must be"),
    ],
)
def test_a_file_of_another_network_is_not_read_back(
    change: Any, message: str, tmp_path: Path, exported: tuple[Path, nn.Module, Any]
) -> None:
    if exported[0].stem != "mobile":
        pytest.skip("one kind is enough")
    model = onnx.load(exported[0])
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=message) as caught:
        read_exported(path)
    assert caught.value.hint is not None


def test_the_file_says_nothing_of_the_machine_that_wrote_it(exported: tuple[Path, nn.Module, Any]) -> None:
    content = exported[0].read_bytes()
    assert not re.search(rb"/\w+/\w+/|\.py\b|stack_trace", content)
    onnx.checker.check_model(onnx.load(exported[0]), full_check=True)


def test_the_same_generator_gives_the_same_bytes(tmp_path: Path, exported: tuple[Path, nn.Module, Any]) -> None:
    if exported[0].stem != "mobile":
        pytest.skip("one kind is enough, an export takes seconds")
    export_onnx(tmp_path / "again.onnx", *make("mobile"))
    assert (tmp_path / "again.onnx").read_bytes() == exported[0].read_bytes()


def test_tiles_of_an_exported_network_equal_the_whole(exported: tuple[Path, nn.Module, Any]) -> None:
    path, module, _ = exported
    if module.context is None:
        pytest.skip("a network that sees the whole picture")
    network = OnnxNetwork(path, threads=1)
    side = 300
    object.__setattr__(network.facts, "bytes_per_pixel", int(2**20 * 64 / OVERHEAD / side**2))
    photo = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    assert tile_side(network.facts, 400, 500, Settings(memory_limit=64)) is not None
    tiled = stylize(network, photo, Settings(memory_limit=64))
    whole = stylize(network, photo, Settings(memory_limit=4096))
    assert np.abs(tiled.astype(int) - whole).max() <= 1


class Blur(nn.Module):
    """A box of 17 pixels, of which a context of 8 is exactly enough."""

    context = 40

    def forward(self, photo: Tensor, noise: Tensor | None = None) -> Tensor:
        return nn.functional.avg_pool2d(photo, 17, stride=1, padding=8)


def test_the_context_that_is_needed_is_measured() -> None:
    assert needed_context(Blur(), 0) == 8


def test_a_network_of_unknown_reach_has_no_context() -> None:
    assert needed_context(make("resnet")[0], 2) is None


def test_a_file_that_differs_from_torch_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: tuple[Path, nn.Module, Any]
) -> None:
    module, facts = make(exported[0].stem)
    spoiled = onnx.load(exported[0])
    weights = next(each for each in spoiled.graph.initializer if len(each.dims) == 4)
    values = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(values[..., ::-1].copy(), weights.name))
    monkeypatch.setattr(export, "_trace", lambda *arguments: spoiled)
    with pytest.raises(ModelError, match="the exported network differs from torch by"):
        export_onnx(tmp_path / "a.onnx", module, facts)
    assert not list(tmp_path.iterdir())


def test_weights_that_half_precision_spoils_are_refused(tmp_path: Path) -> None:
    module, facts = make("mobile")
    with torch.no_grad():
        module.last.weight[:] = 1e6
        module.last.bias[:] = -1e6
    with pytest.raises(ModelError, match="half precision changes pictures by") as caught:
        export_onnx(tmp_path / "a.onnx", module, facts)
    assert "--precision float32" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "NEEDED", ("onnx", "not_there"))
    with pytest.raises(ConfigError, match="export needs not_there, which is not installed"):
        export_onnx(tmp_path / "a.onnx", *make("mobile"))


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a training's folder that holds a generator."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    save_generator(tmp_path / "run" / "tiny.safetensors", *make("mobile"))
    return tmp_path / "run"


def test_the_command_exports_a_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["export", "run", "--out", "made.onnx", "--precision", "float32"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "made.onnx\n"
    assert re.search(r"opset 20; pictures in \[0, 1\] differ from torch's by at most \S+\n", printed.err)
    large = [each for each in onnx.load("made.onnx").graph.initializer if np.prod(each.dims) >= 64]
    assert onnx.TensorProto.FLOAT in {each.data_type for each in large}


def test_the_command_applies_a_run_and_exports_it_first(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGB", (40, 24), "red").save("a.png")
    assert exit_code(["apply", "run", "a.png", "--out", "made"]) == 0
    assert "is exported to" in capsys.readouterr().err
    with Image.open("made/a.png") as picture:
        assert picture.size == (40, 24)
    assert exit_code(["apply", "run", "a.png", "--out", "made", "--overwrite"]) == 0
    assert "is exported" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "none.safetensors"], "there is no file 'none.safetensors'"),
        (["export", "run", "--out", "a.pt"], "the file to write must have a name that ends in .onnx, got 'a.pt'"),
        (["export", "run", "--precision", "int8"], "precision must be float16 or float32, not 'int8'"),
        (["export", "."], "the folder '.' does not hold exactly one generator"),
        (["apply", "run/tiny.safetensors"], "the following arguments are required: INPUT"),
        (["apply", "nothing", "a.png"], "there is no network of the style 'nothing'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    arguments: list[str], message: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {message}"), printed
    assert "\nhint: " in printed
