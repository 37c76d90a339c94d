"""One-step generators that are LoRAs as ONNX files: their pictures are those of torch, whole and in tiles."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jaxtyping import config
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.conftest import PARITY
from tests.generators.hub import Hub, head

from stylescore.assembly import one_step
from stylescore.assembly.one_step import OneStepNetwork, export_one_step, load_one_step
from stylescore.catalog.registry import BUNDLED
from stylescore.cli.main import exit_code
from stylescore.diffusion.execution.tiling import _ramp, tile_starts
from stylescore.errors import ModelError, StyleError
from stylescore.generators import export
from stylescore.generators.files import GeneratorFacts, facts_metadata
from stylescore_apply.networks import OnnxNetwork, TileRule
from stylescore_apply.stylizing import OVERHEAD, Settings, is_cut_for_memory, stylize, tile_side
from stylescore_apply.tiles import split_evenly

pytestmark = pytest.mark.xdist_group("export")

TINY = PARITY / "tiny_base"
FACTS = GeneratorFacts(
    network="lora",
    options={"rank": 4, "timestep": 399},
    style="bands",
    base="tiny_base",
    prompt="a picture of bands",
    noise_channels=4,
    licence="CC0-1.0",
)
VAN_GOGH = BUNDLED / "mini" / "generators" / "van-gogh.safetensors"


def write_generator(path: Path, facts: GeneratorFacts = FACTS) -> Path:
    """Write the LoRA of the tiny base as a generator."""
    save_file(load_file(PARITY / "style_lora_kohya.safetensors"), path, facts_metadata(facts))
    return path


@contextmanager
def without_checks() -> Iterator[None]:
    """Turn off the checks of types, since sizes are symbols and no numbers while a network is traced."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def no_checks() -> Iterator[None]:
    with without_checks():
        yield


@dataclass(frozen=True)
class Pushed:
    """A generator that was pushed to the hub.

    Attributes:
        folder: where it lies.
        hub: what was called.
        onnx: the file that was made of it and uploaded.
        rounding: what storing the weights in half precision changes.
    """

    folder: Path
    hub: Hub
    onnx: Path
    rounding: float


# Of the whole session: tests of other modules come in between, and an export takes long.
@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_generator(tmp_path_factory.mktemp("lora") / "bands.safetensors")


@pytest.fixture(scope="session")
def pushed(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    """Push the tiny generator to the hub, which exports it."""
    hub, found = Hub(), []
    hub.keep = tmp_path_factory.mktemp("hub") / "uploaded"
    measure = export._round
    with without_checks(), pytest.MonkeyPatch.context() as monkeypatch:
        hub.replace_client(monkeypatch)
        monkeypatch.setattr(export, "_round", lambda *given: found.append(measure(*given)) or found[-1])
        assert exit_code(["push", str(generator.parent), "me/bands", "--model", str(TINY)]) == 0
    return Pushed(generator.parent, hub, hub.keep / "bands.onnx", found[-1])


@pytest.fixture(scope="module")
def torch_network(generator: Path) -> OneStepNetwork:
    return load_one_step(generator, str(TINY), "cpu")


def inputs(batch: int, height: int, width: int, channels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(3)
    photo = rng.random((batch, 3, height, width), np.float32)
    return photo, rng.standard_normal((batch, channels, -(-height // 8), -(-width // 8)), np.float32)


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (1, 37, 90), (3, 40, 56), (1, 8, 200), (2, 17, 9)])
def test_the_file_computes_what_torch_computes(
    pushed: Pushed, torch_network: OneStepNetwork, batch: int, height: int, width: int
) -> None:
    photo, noise = inputs(batch, height, width, 4)
    picture, wanted = OnnxNetwork(pushed.onnx, threads=1)(photo, noise), torch_network(photo, noise)
    assert picture.shape == photo.shape
    assert np.abs(picture - wanted).max() < pushed.rounding + export.TOLERANCE
    assert wanted.std() > 0.01
    assert np.abs(picture - OnnxNetwork(pushed.onnx, threads=1)(photo, -noise)).max() > 0.01


def test_a_lora_is_uploaded_with_an_onnx_file_that_does_not_stay_beside_it(pushed: Pushed) -> None:
    assert list(pushed.hub.uploaded) == ["README.md", "bands.onnx", "bands.safetensors"]
    assert [path.name for path in pushed.folder.iterdir()] == ["bands.safetensors"]
    card = pushed.hub.uploaded["README.md"].decode()
    assert head(card)["tags"][-2:] == ["lora", "onnx"]
    assert "needs neither the\nbase model nor torch" in card
    network = OnnxNetwork(pushed.onnx, threads=1)
    made = network(np.zeros((1, 3, 64, 64), "f4"), np.zeros((1, 4, 8, 8), "f4"))
    assert made.shape == (1, 3, 64, 64)


def test_the_lora_and_the_prompt_are_in_the_file(pushed: Pushed, generator: Path, tmp_path: Path) -> None:
    photo, noise = inputs(1, 40, 56, 4)
    picture = OnnxNetwork(pushed.onnx, threads=1)(photo, noise)
    other = load_one_step(write_generator(tmp_path / "a.safetensors", replace(FACTS, prompt="")), str(TINY), "cpu")
    plain = {name: 0 * tensor for name, tensor in load_file(generator).items() if "alpha" not in name}
    save_file(plain, tmp_path / "b.safetensors", facts_metadata(FACTS))
    without = load_one_step(tmp_path / "b.safetensors", str(TINY), "cpu")
    for network in (other, without):
        assert np.abs(network(photo, noise) - picture).max() > 3 * (pushed.rounding + export.TOLERANCE)


def test_it_states_its_facts_and_how_large_pictures_are_computed(pushed: Pushed) -> None:
    facts = OnnxNetwork(pushed.onnx).facts
    assert (facts.network, facts.style, facts.noise_channels, facts.licence) == ("lora", "bands", 4, "CC0-1.0")
    assert facts.context is None
    native = load_native()
    assert facts.tiles == TileRule(largest=4 * native**2, side=native, overlap=native // 4)
    model = onnx.load(pushed.onnx)
    onnx.checker.check_model(model, full_check=True)
    table = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "stylescore.generator"))
    assert (table["base"], table["prompt"]) == ("tiny_base", "a picture of bands")
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    assert not re.search(rb"/\w+/\w+/|\.py\b|stack_trace", model.SerializeToString())


def load_native() -> int:
    return int(json.loads((TINY / "unet" / "config.json").read_text())["sample_size"]) * 8


def test_large_pictures_are_computed_in_torchs_tiles(pushed: Pushed, torch_network: OneStepNetwork) -> None:
    native, network = load_native(), OnnxNetwork(pushed.onnx, threads=1)
    height, width = 2 * native + 20, 2 * native + 45
    photo = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(photo).resize((width, height)))
    assert tile_side(network.facts, height, width, Settings()) == native
    assert tile_side(network.facts, 2 * native, 2 * native, Settings()) is None
    ours, wanted = stylize(network, photo, Settings()), stylize(torch_network, photo, Settings())
    assert np.abs(ours.astype(int) - wanted).mean() < 0.15 * wanted.std()  # of random weights, which amplify


@pytest.mark.parametrize("length", [257, 300, 700, 2000, 1501, 4001])
def test_an_axis_is_split_as_torch_splits_a_latent(length: int) -> None:
    spans, cells = split_evenly(length, 256, 64, 8), -(-length // 8)
    starts = tile_starts(cells, 32)
    assert [span.start for span in spans] == [8 * start for start in starts]
    ramps = [_ramp(256, 64, first=start == 0, last=start + 32 == cells).numpy() for start in starts]
    total = np.zeros(8 * cells)
    for start, ramp in zip(starts, ramps, strict=True):
        total[8 * start : 8 * start + 256] += ramp
    for span, start, ramp in zip(spans, starts, ramps, strict=True):
        wanted = (ramp / total[8 * start : 8 * start + 256])[: len(span.weight)]
        near_the_end = 8 if length % 8 else 0  # padding lies behind the last pixel
        np.testing.assert_allclose(
            span.weight[: len(span.weight) - near_the_end], wanted[: len(wanted) - near_the_end], atol=1e-4
        )


def test_less_memory_makes_smaller_tiles_which_is_said(pushed: Pushed) -> None:
    network = OnnxNetwork(pushed.onnx, threads=1)
    native = load_native()
    large = (3 * native, 3 * native)
    network.facts = replace(network.facts, bytes_per_pixel=int(2**20 * 64 / OVERHEAD / 100**2))
    small, free = Settings(memory_limit=64), Settings(memory_limit=2**20)
    assert tile_side(network.facts, *large, small) == min(96, native)
    assert tile_side(network.facts, *large, free) == native
    assert is_cut_for_memory(network.facts, 2 * native, 2 * native, small)
    assert not is_cut_for_memory(network.facts, *large, free)
    photo = np.random.default_rng(0).integers(0, 256, (*large, 3), dtype=np.uint8)
    assert stylize(network, photo, small).shape == photo.shape


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ((), "is a LoRA of the model 'tiny_base', which is not found by this name", "--model"),
        (("--model", "no-model"), "there is no model 'no-model'", "give 'mini'"),
    ],
)
def test_a_base_that_is_not_found_is_said(
    generator: Path,
    arguments: tuple[str, ...],
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["export", str(generator), "--out", "made.onnx", *arguments]) == 2
    error, _, hint_line = capsys.readouterr().err.strip().rpartition("\nhint: ")
    assert message in error
    assert hint in hint_line
    assert not list(tmp_path.iterdir())


def test_an_exported_generator_is_not_exported_again(
    pushed: Pushed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_styles = tmp_path
    monkeypatch.setenv("STYLESCORE_STYLES", str(own_styles))
    shutil.copy(pushed.onnx, own_styles / "bands.onnx")
    assert exit_code(["export", "bands"]) == 2
    assert "the generator of the style 'bands' is an ONNX file: " in capsys.readouterr().err
    assert exit_code(["export", str(VAN_GOGH), "--model", "nothing", "--out", str(own_styles / "a.onnx")]) == 2
    assert "there is no model 'nothing'" in capsys.readouterr().err
    assert exit_code(["export", "van-gog"]) == 2
    assert "there is no generator 'van-gog'\nhint: did you mean 'van-gogh'?" in capsys.readouterr().err


def test_what_cannot_be_exported_is_refused(
    generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pushed: Pushed
) -> None:
    target = tmp_path / "a.onnx"
    with pytest.raises(StyleError, match="does not fit the model"):
        export_one_step(write_generator(tmp_path / "b.safetensors"), target, "mini")
    monkeypatch.setattr(export, "LARGEST_NETWORK", 100_000)
    with pytest.raises(ModelError, match=r"the network has 0\.\d GB in float32, and at most 0\.0 GB can be exported"):
        export_one_step(generator, target, str(TINY))
    monkeypatch.undo()
    loaded = load_one_step(generator, str(TINY), "cpu", style_weights="merged")
    pooled = replace(loaded.step.prompt, pooled=loaded.step.prompt.tokens[:, 0])
    with_pooled = replace(loaded, step=replace(loaded.step, prompt=pooled))
    monkeypatch.setattr(one_step, "load_one_step", lambda *args, **kwargs: with_pooled)
    with pytest.raises(ModelError, match=r"only generators on models of the Stable Diffusion 1.x and 2.x kind"):
        export_one_step(generator, target, str(TINY))
    assert not target.exists()


def test_a_module_that_torch_cannot_trace_is_refused(generator: Path, tmp_path: Path) -> None:
    loaded = load_one_step(generator, str(TINY), "cpu", style_weights="merged")
    module = one_step.MergedGenerator(loaded.step).eval()
    module.network.forward = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ModelError, match="torch cannot export the network to ONNX: "):
        export._convert(module, export._inputs(2, 136, 200, 4), {})


def test_the_command_tells_the_file_that_lies_beside_the_generator_or_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def export_onnx(target: Path, *given: Any, **options: Any) -> export.Exported:
        target.write_bytes(b"")
        return export.Exported(0.0, 0.0, None)

    monkeypatch.setattr(one_step, "export_onnx", export_onnx)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    file = write_generator(tmp_path / "made" / "bands.safetensors")
    assert exit_code(["export", str(file), "--model", str(TINY), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = (document["file"], document["context"], document["precision"])
    assert found == (str(file.with_suffix(".onnx")), None, "float16")
    assert exit_code(["export", "van-gogh"]) == 0
    assert capsys.readouterr().out == "van-gogh.onnx\n"


def test_the_generator_of_a_style_is_exported_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped one, compared with `apply` by torch, and run by stylescore-apply."""
    from stylescore_apply.cli import exit_code as apply

    monkeypatch.chdir(tmp_path)
    assert exit_code(["export", "van-gogh", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["file"], document["context"], document["precision"]) == ("van-gogh.onnx", None, "float16")
    assert document["difference"] <= export.TOLERANCE
    size = Path("van-gogh.onnx").stat().st_size
    assert size < 17.5e6
    network, wanted = OnnxNetwork(Path("van-gogh.onnx"), threads=1), load_one_step(VAN_GOGH, None, "cpu")
    for batch, height, width in ((1, 256, 256), (2, 101, 160)):
        photo, noise = inputs(batch, height, width, 32)
        assert np.abs(network(photo, noise) - wanted(photo, noise)).max() < 2 / 255
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save("a.png")
    assert apply(["van-gogh.onnx", "a.png", "--out", "made"]) == 0
    with Image.open("made/a.png") as picture:
        assert picture.size == (90, 60)
    assert exit_code(["apply", str(VAN_GOGH), "a.png", "--out", "by-torch"]) == 0
    difference = np.asarray(Image.open("made/a.png")).astype(int) - np.asarray(Image.open("by-torch/a.png"))
    assert np.abs(difference).max() <= 1
    large = np.asarray(Image.open("a.png").resize((600, 520)))
    ours, by_torch = stylize(network, large, Settings()), stylize(wanted, large, Settings())
    assert tile_side(network.facts, 520, 600, Settings()) == 256
    assert np.abs(ours.astype(int) - by_torch).mean() < 1
