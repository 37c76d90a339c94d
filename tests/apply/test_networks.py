"""Files of networks: what they say is checked, what cannot be used is named for what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.apply.tiny import FACTS, build, picture, reference

from stylescore_apply.errors import ModelError
from stylescore_apply.names import find_network, known_networks
from stylescore_apply.networks import KEY, OnnxNetwork, TileRule, parse_facts

NetworkFile = Callable[..., Path]


def test_a_batch_equals_its_pictures_one_by_one(network: OnnxNetwork) -> None:
    rng = np.random.default_rng(0)
    photos = rng.random((3, 3, 17, 30), dtype=np.float32)
    noise = rng.standard_normal((3, 2, 3, 4), dtype=np.float32)
    together = network(photos, noise)
    for index in range(3):
        alone = network(photos[index : index + 1], noise[index : index + 1])
        np.testing.assert_allclose(together[index : index + 1], alone, atol=1e-6)


def test_the_network_computes_the_reference(network: OnnxNetwork) -> None:
    photo = picture()
    noise = np.random.default_rng(1).standard_normal((1, 2, 3, 5), dtype=np.float32)
    result = network(np.moveaxis(photo, -1, 0)[None].astype(np.float32) / 255, noise)
    np.testing.assert_allclose(np.moveaxis(result[0], 0, -1), reference(photo, noise), atol=1e-5)


def test_entries_for_people_are_ignored_and_facts_returned() -> None:
    facts = parse_facts(FACTS | {"training": {"steps": 3}, "trigger": "x"})
    assert (facts.network, facts.context, facts.noise_channels) == ("box", 2, 2)
    assert parse_facts(FACTS | {"context": None}).context is None
    assert (facts.tiles, facts.passes, facts.strength) == (None, 1, 1.0)
    stated = parse_facts(FACTS | {"passes": 3, "strength": 0.7})
    assert (stated.passes, stated.strength) == (3, 0.7)
    rule = {"largest": 2**18, "side": 256, "overlap": 64}
    assert parse_facts(FACTS | {"tiles": rule}).tiles == TileRule(**rule)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, "its format has the version 2, this program reads 1"),
        ({"version": None}, "its format has the version None"),
        ({"style": 3}, "its 'style' is 3, not a text"),
        ({"noise_channels": -1}, "its 'noise_channels' is -1, not a whole number between 0 and 1024"),
        ({"noise_scale": 0}, "its 'noise_scale' is 0"),
        ({"multiple": 8.0}, "its 'multiple' is 8.0"),
        ({"context": "far"}, "its 'context' is 'far'"),
        ({"bytes_per_pixel": True}, "its 'bytes_per_pixel' is True"),
        ({"licence": None}, "its 'licence' is None"),
        ({"passes": 9}, "its 'passes' is 9, not a whole number between 1 and 8"),
        ({"passes": True}, "its 'passes' is True"),
        ({"strength": 1.2}, "its 'strength' is 1.2, not a number above 0, at most 1"),
        ({"strength": None}, "its 'strength' is None"),
        ({"tiles": 256}, "its 'tiles' are 256, not a JSON object"),
        ({"tiles": {"largest": 0, "side": 256, "overlap": 64}}, "its 'largest' is 0"),
        ({"tiles": {"largest": 1, "side": 8, "overlap": 2}}, "its 'side' is 8"),
        (
            {"tiles": {"largest": 1, "side": 256, "overlap": 65}},
            "its 'overlap' is 65, not a whole number between 1 and",
        ),
    ],
)
def test_facts_that_cannot_be_used_are_refused(facts: dict[str, Any], message: str, network_file: NetworkFile) -> None:
    model = build()
    helper.set_model_props(model, {KEY: json.dumps(FACTS | facts)})
    path = network_file()
    onnx.save(model, path)
    with pytest.raises(ModelError, match="cannot be used") as caught:
        OnnxNetwork(path)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["[1, 2]", "{", "[" * 100_000, '"a"'])
def test_facts_that_are_no_object_are_refused(text: str, network_file: NetworkFile) -> None:
    model = build()
    helper.set_model_props(model, {KEY: text})
    path = network_file()
    onnx.save(model, path)
    with pytest.raises(ModelError, match="cannot be used"):
        OnnxNetwork(path)


def test_a_network_of_another_program_is_named(network_file: NetworkFile) -> None:
    with pytest.raises(ModelError, match="is an ONNX model of another program"):
        OnnxNetwork(network_file(metadata=False))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!doctype html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(30), "is a ZIP archive"),
        (b"\xff" * 500, "onnxruntime cannot load"),
    ],
)
def test_other_files_are_named_for_what_they_are(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        OnnxNetwork(path)


def test_a_truncated_file_is_refused(network_file: NetworkFile) -> None:
    path = network_file()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelError, match=r"onnxruntime cannot load|another program"):
        OnnxNetwork(path)


def test_a_file_cannot_make_another_one_be_read(network_file: NetworkFile, tmp_path: Path) -> None:
    """Weights outside of the file are refused, though the file they name is there."""
    model = build()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    kernel = next(each for each in model.graph.initializer if each.name == "kernel")
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("offset", "0"), ("length", "900")):
        kernel.external_data.add(key=key, value=value)
    path = network_file()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="onnxruntime cannot load"):
        OnnxNetwork(path)


def test_inputs_that_the_facts_do_not_promise_are_refused(network_file: NetworkFile) -> None:
    model = build()
    helper.set_model_props(model, {KEY: json.dumps(FACTS | {"noise_channels": 0})})
    path = network_file()
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has inputs \\['noise', 'photo'\\]"):
        OnnxNetwork(path)
    helper.set_model_props(model, {KEY: json.dumps(FACTS | {"noise_channels": 5})})
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has 'noise' as tensor\\(float\\)"):
        OnnxNetwork(path)


def test_a_network_of_one_size_is_refused(network_file: NetworkFile) -> None:
    model = build()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 256
    path = network_file()
    onnx.save(model, path)
    with pytest.raises(ModelError, match="has 'photo' as"):
        OnnxNetwork(path)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from stylescore_apply.networks import OnnxNetwork
network = OnnxNetwork(Path(sys.argv[1]), threads=1)
photo = np.zeros((1, 3, 6000, 6000), np.float32)
noise = np.zeros((1, 2, 750, 750), np.float32)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
try:
    network(photo, noise)
except Exception as error:
    print(type(error).__name__, error, error.hint, sep="|")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="limits of memory are set as on Linux")
def test_memory_that_runs_out_is_one_line(network_file: NetworkFile) -> None:
    import stylescore_apply

    paths = {"PYTHONPATH": str(Path(stylescore_apply.__file__).parents[1])}
    command = [sys.executable, "-c", LIMITED, str(network_file())]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths, check=True)
    kind, message, hint = done.stdout.strip().split("|")
    assert (kind, message) == ("MemoryLimitError", "not enough memory for stylizing the picture")
    assert "--memory-limit" in hint


def test_a_network_that_cannot_be_computed_is_one_line(network: OnnxNetwork) -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot compute the network"):
        network(np.zeros((1, 3, 16, 16), np.float32), np.zeros((1, 3, 2, 2), np.float32))


def test_names_folders_and_files(network_file: NetworkFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network_file()
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "oil.onnx").touch()
    (second / "ink.onnx").touch()
    assert known_networks([first, second]) == {"oil": first / "oil.onnx", "ink": second / "ink.onnx"}
    assert find_network("oil", [first, second]) == first / "oil.onnx"
    assert find_network("first", [second]) == Path("first/oil.onnx")
    assert find_network("blur.onnx", []) == Path("blur.onnx")
    with pytest.raises(ModelError, match="the folder 'second' has 2 ONNX files, exactly one is needed"):
        find_network("second", [])
    with pytest.raises(ModelError, match="there is no network of the style 'oik'") as caught:
        find_network("oik", [first])
    assert caught.value.hint == "did you mean 'oil'?"
    with pytest.raises(ModelError, match="there is no network of the style ''"):
        find_network("", [])
