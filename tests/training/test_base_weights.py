"""A style states the weights it was trained on, and whoever uses it with others is warned."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stylescore.assembly.networks import load_networks
from stylescore.assembly.sources import resolve_sources
from stylescore.catalog.metadata import BASE_WEIGHTS
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.fingerprint import fingerprint, other_base, relative_distance

Make = Callable[..., Any]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"wide": nn.Linear(30, 7), "conv": nn.Conv2d(5, 9, 3), "norm": nn.LayerNorm(4)})


def rounded(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    copy = deepcopy(module)
    for weight in copy.parameters():
        weight.data = weight.data.to(dtype).float()
    return copy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_a_rounded_network_is_the_same(dtype: torch.dtype) -> None:
    stated = {BASE_WEIGHTS: fingerprint(network()) or ""}
    assert other_base(stated, rounded(network(), dtype)) is None
    assert other_base(stated, network()) is None
    assert other_base({BASE_WEIGHTS: fingerprint(network().to(torch.bfloat16)) or ""}, network()) is None


def test_the_distance_is_that_of_the_weights() -> None:
    module, moved = network(), network()
    for weight in moved.parameters():
        weight.data *= 1.25
    distance = relative_distance(fingerprint(module) or "", moved)
    assert distance == pytest.approx(0.25, abs=1e-3)
    line = other_base({BASE_WEIGHTS: fingerprint(module) or ""}, moved)
    assert "25%" in (line or "")


def test_one_layer_alone_is_seen() -> None:
    moved = network()
    moved["conv"].weight.data.normal_()  # type: ignore[index, union-attr, operator]
    assert other_base({BASE_WEIGHTS: fingerprint(network()) or ""}, moved) is not None


@pytest.mark.parametrize(
    "stated",
    ["", "no base64 ü", base64.b64encode(b"\x00").decode(), base64.b64encode(b"\x00\x7e" * 512).decode(), "AAAA" * 20],
)
def test_what_cannot_be_compared_is_unknown(stated: str) -> None:
    assert other_base({BASE_WEIGHTS: stated}, network()) is None


def test_a_network_of_another_form_or_quantised_is_unknown() -> None:
    stated = fingerprint(network()) or ""
    assert relative_distance(stated, nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))) is None
    packed = network()
    packed["wide"].weight = nn.Parameter(torch.zeros(105, 1, dtype=torch.uint8), requires_grad=False)  # type: ignore[index, union-attr]
    assert fingerprint(packed) is None
    assert relative_distance(stated, packed) is None


def notes(style: Path, model: Path) -> list[str]:
    run = RunConfig(styles=(StyleChoice(name=str(style)),), model=str(model))
    return [note for note in load_networks(run, resolve_sources(run)).notes if "trained on other weights" in note]


def test_a_trained_style_knows_its_base_again(session: Make, tools: SimpleNamespace, tmp_path: Path) -> None:
    made = session()
    *_, written = made.run()
    with safe_open(written.style, "pt") as opened:
        assert "stylescore.base_sha256" not in opened.metadata()
    assert notes(written.style, tools.tiny) == []
    other = shutil.copytree(tools.tiny, tmp_path / "retrained")
    file = next((other / "unet").glob("*.safetensors"))
    save_file({name: 1.5 * tensor for name, tensor in load_file(file).items()}, file)
    (note,) = notes(written.style, other)
    assert note.startswith("discs: ")
    going_on = session(name="more", origin=written.style, model=str(other), rank=None)
    assert [note for note in going_on.base.parts.notes if "trained on other weights" in note]


def test_the_hash_of_older_files_says_nothing(session: Make, tools: SimpleNamespace, tmp_path: Path) -> None:
    *_, written = session().run()
    old = tmp_path / "old.safetensors"
    save_file(load_file(written.style), old, {"stylescore.base_sha256": "0" * 64})
    assert notes(old, tools.tiny) == []
