"""A style merged into a copy of the network: the same run as with an adapter, chosen where it is faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.config.method import MethodConfig
from stylescore.config.presets import load
from stylescore.config.run import with_options
from stylescore.config.toml import overlay
from stylescore.diffusion.execution import merging
from stylescore.diffusion.execution.merging import free_memory, merging_is_faster, network_bytes
from stylescore.method.fit import fit
from stylescore.runs.job import resolve_style_weights

PARITY = Path(__file__).parents[1] / "data" / "parity"
SHARED = replace(load("swift"), iterations=3)
NETWORK = nn.Linear(3, 4)


def run_config(**more: Any) -> RunConfig:
    style = StyleChoice(name=str(PARITY / "style_lora_kohya.safetensors"))
    run = RunConfig(styles=(style,), model=str(PARITY / "tiny_base"), size=64)
    return with_options(run, {"method": SHARED, "device": "cpu", **more})


def end(stylizer: Stylizer) -> Tensor:
    fitting = stylizer.start([read_photo(PARITY / "input_128x128.png")])
    for _ in fit(fitting):
        pass
    return fitting.subject.render()


@pytest.mark.parametrize("method", [SHARED, replace(load("reference"), iterations=3)], ids=["swift", "reference"])
def test_a_run_with_a_copy_is_the_run_without(method: MethodConfig) -> None:
    beside, copied = (Stylizer(run_config(method=method, style_weights=choice)) for choice in ("adapter", "merged"))
    assert (beside.style_has_network, copied.style_has_network) == (False, True)
    assert torch.allclose(end(beside), end(copied), atol=1e-4)


def test_a_copy_leaves_the_base_as_it_was() -> None:
    plain = Stylizer(run_config(style_weights="adapter"))._networks.base.network.state_dict()
    with_copy = Stylizer(run_config(style_weights="merged"))._networks
    kept, changed = with_copy.base.network.state_dict(), with_copy.style.network.state_dict()
    before = {name.replace(".base.", "."): weight for name, weight in plain.items()}
    assert all(torch.equal(weight, before[name]) for name, weight in kept.items())
    assert any(not torch.equal(weight, before[name]) for name, weight in changed.items())


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ({}, True),
        ({"relevance": {"timesteps": 0}}, False),
        ({"relevance": {"timesteps": 0, "strength": 0.0}}, True),
        ({"fake": {"shared": False}}, False),
        ({"method": "vsd", "relevance": {"timesteps": 0}}, True),
        ({"method": "dds"}, False),
    ],
)
def test_merging_is_faster_where_the_style_has_no_call_to_share(changes: dict[str, Any], alone: bool) -> None:
    method = overlay(SHARED, changes)
    assert method.has_lone_style_pass == alone
    assert merging_is_faster(method, NETWORK) == alone


def test_no_copy_in_half_precision_nor_where_memory_is_short_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not merging_is_faster(SHARED, nn.Linear(3, 4).bfloat16())
    for free, pays in ((4 * network_bytes(NETWORK), True), (4 * network_bytes(NETWORK) - 1, False), (None, False)):
        monkeypatch.setattr(merging, "free_memory", lambda device, free=free: free)
        assert merging_is_faster(SHARED, NETWORK) == pays


def test_no_copy_of_a_large_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "LARGEST", network_bytes(NETWORK) - 1)
    assert not merging_is_faster(SHARED, NETWORK)


def test_sizes_by_hand() -> None:
    assert network_bytes(NETWORK) == 4 * (3 * 4 + 4)
    assert free_memory(torch.device("meta")) is None


def test_by_default_the_choice_is_made_and_recorded() -> None:
    shared, alone = Stylizer(run_config()), Stylizer(run_config(method=load("balanced")))
    assert resolve_style_weights(shared).execution.style_weights == "merged"
    assert resolve_style_weights(alone).execution.style_weights == "adapter"
    assert resolve_style_weights(Stylizer(run_config(memory="low"))).execution.style_weights == "adapter"
    own = Stylizer(run_config(style_model=str(PARITY / "tiny_base")))
    assert own.style_has_network
    assert resolve_style_weights(own).execution.style_weights == "auto"
