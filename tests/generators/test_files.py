from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stylescore.errors import ModelError
from stylescore.generators import GeneratorFacts, load_generator, save_generator
from stylescore.generators.files import KEY, read_facts
from stylescore.generators.kinds import make_generator

SMALL = {"width": 4, "blocks": 1}
FACTS = GeneratorFacts(
    network="mobile",
    options=SMALL,
    style="ink",
    trigger="ink drawing",
    base="mini",
    size=256,
    noise_channels=4,
    licence="Apache-2.0",
    training={"steps": 10},
)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    module = make_generator("mobile", SMALL, 4)
    nn.init.normal_(module.last.weight)  # type: ignore[arg-type]
    return module.eval()


@pytest.fixture
def file(tmp_path: Path, network: nn.Module) -> Path:
    save_generator(tmp_path / "ink.safetensors", network, FACTS)
    return tmp_path / "ink.safetensors"


def rewrite(file: Path, tensors: dict[str, torch.Tensor] | None = None, **facts: Any) -> None:
    """Write the file anew with other tensors, or with other facts; `None` leaves a fact out."""
    table = {key: value for key, value in (asdict(FACTS) | facts).items() if value is not None}
    save_file(load_file(file) if tensors is None else tensors, file, {KEY: json.dumps(table)})


def test_a_generator_returns_with_its_facts(file: Path, network: nn.Module) -> None:
    module, facts = load_generator(file)
    assert facts == FACTS
    photo, noise = torch.rand(1, 3, 16, 24), torch.randn(1, 4, 2, 3)
    assert torch.equal(module(photo, noise), network(photo, noise))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(tmp_path: Path, network: nn.Module, dtype: torch.dtype) -> None:
    save_generator(tmp_path / "half.safetensors", network, FACTS, dtype=dtype)
    module, _ = load_generator(tmp_path / "half.safetensors")
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name].to(dtype).float())


def test_the_same_generator_is_the_same_file(file: Path, network: nn.Module) -> None:
    save_generator(file.with_name("again.safetensors"), network, FACTS)
    assert file.read_bytes() == file.with_name("again.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, "its format has the version 2, this program reads 1"),
        ({"network": "vit"}, "network must be one of"),
        ({"network": 3}, "its 'network' is 3"),
        ({"style": None}, "its 'style' is None"),
        ({"options": {"width": 4, "depth": 1}}, "has no option 'depth'"),
        ({"options": [4]}, "its 'options' is"),
        ({"noise_channels": True}, "its 'noise_channels' is True"),
        ({"noise_channels": 10**9}, "noise_channels must be"),
        ({"noise_scale": 16}, "noise_scale and multiple are 16 and 8"),
        ({"passes": 0}, "its 'passes' is 0, not a whole number between 1 and 8"),
        ({"passes": 1.0}, "its 'passes' is 1.0"),
        ({"strength": 0}, "its 'strength' is 0, not a number above 0, at most 1"),
        ({"strength": "full"}, "its 'strength' is 'full'"),
        ({"colour": "red"}, "the unknown fact 'colour'"),
        ({"options": {"width": 4, "blocks": 2}}, "lacks 'body.1.filter.weight'"),
        ({"noise_channels": 5}, "of shape"),
    ],
)
def test_wrong_facts_are_refused(file: Path, facts: dict[str, Any], message: str) -> None:
    rewrite(file, **facts)
    with pytest.raises(ModelError, match=message):
        load_generator(file)


def test_passes_and_strength_are_stated_where_they_are_not_one(tmp_path: Path, network: nn.Module) -> None:
    """A file without them is read by versions that do not know them."""
    for number, facts in enumerate((FACTS, replace(FACTS, passes=3, strength=0.7))):
        file = tmp_path / f"{number}.safetensors"
        save_generator(file, network, facts)
        with safe_open(file, "pt") as opened:
            stated = json.loads(opened.metadata()[KEY])
        assert ("passes" in stated, "strength" in stated) == (number == 1, number == 1)
        assert read_facts(file) == facts


def test_a_lora_is_no_generator(file: Path) -> None:
    save_file({"lora_down": torch.zeros(2, 2)}, file, {"ss_network_dim": "4"})
    with pytest.raises(ModelError, match="is not a generator"):
        read_facts(file)


@pytest.mark.parametrize("text", ["", "[", "[]", "null", '{"version": NaN}'])
def test_metadata_that_are_no_facts_are_refused(file: Path, text: str) -> None:
    save_file(load_file(file), file, {KEY: text})
    with pytest.raises(ModelError, match="cannot be used"):
        read_facts(file)


def test_other_tensors_are_refused(file: Path) -> None:
    tensors = load_file(file)
    rewrite(file, {**tensors, "more": torch.zeros(1)})
    with pytest.raises(ModelError, match="unknown tensor 'more'"):
        load_generator(file)
    rewrite(file, {**tensors, "last.bias": torch.zeros(3, dtype=torch.int32)})
    with pytest.raises(ModelError, match="in I32"):
        load_generator(file)
    rewrite(file, {**tensors, "last.bias": torch.tensor(16 * [float("nan")])})
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        load_generator(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        load_generator(tmp_path / "none.safetensors")


def test_facts_hold_what_the_program_may_rely_on() -> None:
    assert (FACTS.noise_scale, FACTS.multiple) == (8, 8)
    assert replace(FACTS, noise_channels=0).noise_channels == 0
