"""IA3, OFT, BOFT, GLoRA, full differences, norms and biases: against LyCORIS, PEFT and closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.norms import NormModule
from peft import BOFTConfig, IA3Config, LoraConfig, OFTConfig, get_peft_model
from peft.tuners.boft.layer import BOFTLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylescore.diffusion.adapters import Adapters, Route, changeable, merge
from stylescore.errors import StyleError
from stylescore.lora import bind, describe, read_lora
from stylescore.lora.deltas import Sum
from stylescore.lora.multiplicative import butterfly, cayley

STRENGTH = 0.7


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Two layers with norms, as a U-Net has them."""

    def __init__(self) -> None:
        super().__init__()
        self.group = nn.GroupNorm(2, 8)
        self.fold = nn.Conv2d(8, 12, 3, padding=1)
        self.turn = nn.Linear(12, 8)
        self.last = nn.LayerNorm(8)
        for n, parameter in enumerate(self.parameters()):
            parameter.data = draw(n, *parameter.shape)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.turn(self.fold(self.group(x)).flatten(2).mT))
        return y


LAYERS = ("group", "fold", "turn", "last")
INPUT = draw(99, 2, 8, 5, 4)


def save(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def assert_acts(path: Path, wanted: dict[str, Tensor], strength: float = STRENGTH) -> None:
    """Check the weights after merging, and the output of an adapter beside the layers.

    Args:
        path: the file.
        wanted: every changed weight and bias at strength 1.
        strength: of the adapter.
    """
    bound = bind(read_lora(path), changeable(Network()))
    merged, plain = Network(), Network().state_dict()
    merge(merged, bound, strength)
    for name, before in plain.items():
        after = before + strength * (wanted.get(name, before) - before)
        torch.testing.assert_close(merged.state_dict()[name], after, rtol=1e-4, atol=1e-5)
    assert all((wanted[name] - plain[name]).abs().max() > 1e-2 for name in wanted)
    beside = Network()
    adapters = Adapters.of(beside)
    adapters.add_style(bound, strength)
    with adapters.switch.set(Route(style=True)):
        torch.testing.assert_close(beside(INPUT), merged(INPUT), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beside(INPUT), Network()(INPUT))


def noisy(module: nn.Module) -> nn.Module:
    for n, parameter in enumerate(module.parameters()):
        parameter.data = parameter.data + 0.3 * draw(50 + n, *parameter.shape)
    return module


LYCORIS: dict[str, tuple[str, Any, dict[str, Any], tuple[str, ...]]] = {
    "IA3 of outputs": ("IA3", IA3Module, {"train_on_input": False}, ("fold", "turn")),
    "IA3 of inputs": ("IA3", IA3Module, {"train_on_input": True}, ("fold", "turn")),
    "OFT": ("OFT", DiagOFTModule, {"lora_dim": 4}, ("fold", "turn")),
    "OFT with a limit": ("OFT", DiagOFTModule, {"lora_dim": 4, "constraint": 0.05}, ("fold", "turn")),
    "OFT, rescaled": ("OFT", DiagOFTModule, {"lora_dim": 4, "rescaled": True}, ("fold", "turn")),
    "BOFT": ("BOFT", ButterflyOFTModule, {"lora_dim": 2}, ("turn",)),
    "BOFT, larger blocks": ("BOFT", ButterflyOFTModule, {"lora_dim": 6}, ("fold",)),
    "BOFT, rescaled, with a limit": (
        "BOFT",
        ButterflyOFTModule,
        {"lora_dim": 6, "rescaled": True, "constraint": 0.05},
        ("fold",),
    ),
    "GLoRA": ("GLoRA", GLoRAModule, {"lora_dim": 2, "alpha": 3}, ("fold", "turn")),
    "norms": ("full difference", NormModule, {}, ("group", "last")),
}


@pytest.mark.parametrize("name", LYCORIS)
def test_what_lycoris_saves_changes_weights_as_lycoris_does(tmp_path: Path, name: str) -> None:
    kind, module_of, options, layers = LYCORIS[name]
    tensors, wanted, network = {}, {}, Network()
    for layer in layers:
        module = noisy(module_of(f"lora_unet_{layer}", network.get_submodule(layer), 1.0, **options))
        own = module.custom_state_dict() if hasattr(module, "custom_state_dict") else None
        state = own or {key: value for key, value in module.state_dict().items() if "org_module" not in key}
        tensors |= {f"lora_unet_{layer}.{key}": value.detach() for key, value in state.items()}
        weight, bias = module.get_merged_weight()
        wanted[f"{layer}.weight"] = weight.detach()
        if bias is not None:
            wanted[f"{layer}.bias"] = bias.detach()
    path = save(tmp_path / "a.safetensors", tensors)
    assert_acts(path, wanted)
    report = describe(path)
    assert (report.usable, report.kind, report.format) == (True, kind, "kohya")
    assert report.unet.total == len(layers)


def test_lycoris_full_differences_change_weights_and_biases(tmp_path: Path) -> None:
    network, tensors, wanted = Network(), {}, {}
    for layer in ("fold", "turn"):
        module = FullModule(f"lora_unet_{layer}", network.get_submodule(layer), 1.0)
        weight, bias = draw(3, *module.weight.shape), draw(4, *module.bias.shape)
        module.weight.data, module.bias.data = weight.clone(), bias.clone()
        merged = module.get_merged_weight()
        wanted |= {f"{layer}.weight": merged[0].detach(), f"{layer}.bias": merged[1].detach()}
        tensors |= {f"lora_unet_{layer}.diff": weight, f"lora_unet_{layer}.diff_b": bias}
    path = save(tmp_path / "a.safetensors", tensors)
    assert_acts(path, wanted)
    report = describe(path)
    assert (report.kind, report.unet.linear, report.unet.conv, report.unet.bias) == ("full difference", 1, 1, 2)


def factors(layer: str = "turn") -> dict[str, Tensor]:
    return {f"lora_unet_{layer}.lora_down.weight": draw(1, 2, 12), f"lora_unet_{layer}.lora_up.weight": draw(2, 8, 2)}


ONE_MORE: dict[str, tuple[str, Tensor, str, Callable[[Tensor, Tensor], Tensor]]] = {
    "diff_b": ("lora_unet_fold.diff_b", draw(5, 12), "fold.bias", lambda old, given: old + given),
    "w_norm": ("lora_unet_group.w_norm", draw(6, 8), "group.weight", lambda old, given: old + given),
    "b_norm": ("lora_unet_last.b_norm", draw(7, 8), "last.bias", lambda old, given: old + given),
    "diff of a norm": ("lora_unet_last.diff", draw(8, 8), "last.weight", lambda old, given: old + given),
    "set_weight": ("lora_unet_fold.set_weight", draw(9, 12, 8, 3, 3), "fold.weight", lambda old, given: given),
    "whole bias": ("unet.fold.bias", draw(10, 12), "fold.bias", lambda old, given: given),
    "whole weight": ("unet.last.weight", draw(11, 8), "last.weight", lambda old, given: given),
}


@pytest.mark.parametrize("name", ONE_MORE)
def test_one_other_tensor_in_a_lora_is_applied_too(tmp_path: Path, name: str) -> None:
    key, tensor, target, apply = ONE_MORE[name]
    before = Network().state_dict()
    wanted = {"turn.weight": before["turn.weight"] + factors()["lora_unet_turn.lora_up.weight"] @ draw(1, 2, 12)}
    wanted[target] = apply(before[target], tensor)
    path = save(tmp_path / "a.safetensors", factors() | {key: tensor})
    assert_acts(path, wanted)
    assert "LoRA" in str(describe(path).kind)


def test_a_full_difference_beside_factors_of_the_same_layer_is_added(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", factors() | {"lora_unet_turn.diff": draw(4, 8, 12)})
    before = Network().turn.weight.detach()
    assert_acts(path, {"turn.weight": before + draw(2, 8, 2) @ draw(1, 2, 12) + draw(4, 8, 12)})
    assert isinstance(read_lora(path).parts["unet"]["turn"], Sum)


def test_a_bias_of_a_layer_that_has_none_is_added(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", factors("0") | {"lora_unet_0.diff_b": draw(5, 8)})
    model = nn.Sequential(nn.Linear(12, 8, bias=False))
    bound, x = bind(read_lora(path), changeable(model)), draw(6, 3, 12)
    wanted = model(x) + 0.5 * (x @ (draw(2, 8, 2) @ draw(1, 2, 12)).T + draw(5, 8))
    merged = deepcopy(model)
    merge(merged, bound, 0.5)
    adapters = Adapters.of(model)
    adapters.add_style(bound, 0.5)
    with adapters.switch.set(Route(style=True)):
        torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(merged(x), wanted)


def test_the_sparse_remainder_of_an_extraction_is_scaled_like_the_factors(tmp_path: Path) -> None:
    tensors = factors() | {
        "lora_unet_turn.alpha": torch.tensor(3.0),
        "lora_unet_turn.bias_indices": torch.tensor([[0, 7], [11, 2]]),
        "lora_unet_turn.bias_values": torch.tensor([2.0, -1.0]),
        "lora_unet_turn.bias_size": torch.tensor([8, 12]),
    }
    whole = draw(2, 8, 2) @ draw(1, 2, 12)
    whole[0, 11] += 2.0
    whole[7, 2] -= 1.0
    before = Network().turn.weight.detach()
    assert_acts(save(tmp_path / "a.safetensors", tensors), {"turn.weight": before + 1.5 * whole})


@pytest.mark.parametrize("scalar", [0.4, -1.5])
def test_the_trained_factor_of_older_lycoris_files_multiplies_the_product(tmp_path: Path, scalar: float) -> None:
    tensors = factors() | {
        "lora_unet_turn.alpha": torch.tensor(3.0),
        "lora_unet_turn.scalar": torch.tensor(scalar),
        "lora_unet_fold.lokr_w1": draw(5, 3, 2),
        "lora_unet_fold.lokr_w2": draw(6, 4, 4, 3, 3),
        "lora_unet_fold.alpha": torch.tensor(3.0),
        "lora_unet_fold.scalar": torch.tensor(scalar),
    }
    before = Network().state_dict()
    wanted = {"turn.weight": before["turn.weight"] + scalar * 1.5 * draw(2, 8, 2) @ draw(1, 2, 12)}
    kron = torch.kron(draw(5, 3, 2)[..., None, None], draw(6, 4, 4, 3, 3))
    wanted["fold.weight"] = before["fold.weight"] + scalar * kron
    assert_acts(save(tmp_path / "a.safetensors", tensors), wanted)


BOTH = ["fold", "turn"]
PEFTS: dict[str, tuple[str, Any]] = {
    "IA3": ("IA3", IA3Config(target_modules=BOTH, feedforward_modules=[])),
    "IA3 of inputs": ("IA3", IA3Config(target_modules=BOTH, feedforward_modules=BOTH)),
    "OFT": ("OFT", OFTConfig(target_modules=BOTH, oft_block_size=4, r=0)),
    "OFT, three terms": (
        "OFT",
        OFTConfig(target_modules=BOTH, oft_block_size=4, r=0, num_cayley_neumann_terms=3),
    ),
    "OFT, two terms": ("OFT", OFTConfig(target_modules=BOTH, oft_block_size=4, r=0, num_cayley_neumann_terms=2)),
    "OFT, seven terms": ("OFT", OFTConfig(target_modules=BOTH, oft_block_size=4, r=0, num_cayley_neumann_terms=7)),
    "OFT, exact": ("OFT", OFTConfig(target_modules=BOTH, oft_block_size=4, r=0, use_cayley_neumann=False)),
    "OFT, shared": ("OFT", OFTConfig(target_modules=BOTH, oft_block_size=4, r=0, block_share=True)),
    "OFT with a limit": ("OFT", OFTConfig(target_modules=["turn"], oft_block_size=4, r=0, coft=True, eps=0.8)),
    "BOFT": ("BOFT", BOFTConfig(target_modules=BOTH, boft_block_size=4)),
    "biases": ("LoRA and whole weights", LoraConfig(r=2, lora_alpha=3, target_modules=["turn"], bias="all")),
    "biases of its layers": (
        "LoCon",
        LoraConfig(r=2, lora_alpha=3, target_modules=["fold"], bias="lora_only"),
    ),
    "bias of factors": ("LoCon", LoraConfig(r=2, lora_alpha=3, target_modules=BOTH, lora_bias=True)),
    "whole modules": (
        "LoRA and whole weights",
        LoraConfig(r=2, lora_alpha=3, target_modules=["turn"], modules_to_save=["last", "fold"]),
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEFTS)
def test_what_peft_saves_changes_weights_as_peft_does(tmp_path: Path, name: str) -> None:
    kind, config = PEFTS[name]
    trained = get_peft_model(Network(), deepcopy(config))
    for n, parameter in enumerate(trained.parameters()):
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.2 * draw(70 + n, *parameter.shape)
    trained.save_pretrained(tmp_path)
    after = trained.merge_and_unload().state_dict()
    before = Network().state_dict()
    wanted = {key: after[key] for key in before if (after[key] - before[key]).abs().max() > 1e-2}
    path = tmp_path / "adapter_model.safetensors"
    assert_acts(path, wanted)
    report = describe(path)
    assert (report.usable, report.format, report.assumed) == (True, "peft", None)
    if name != "biases":
        assert report.kind == kind


@pytest.mark.parametrize("options", [{}, {"block_share": True}], ids=["", "shared"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("stem", ["lora_unet_{}", "transformer.{}"])
def test_the_rotations_of_onetrainer_are_those_of_peft_with_five_terms(
    tmp_path: Path, stem: str, scaled: bool, options: dict[str, bool]
) -> None:
    if not scaled and "." in stem:
        pytest.skip("the same tensors as PEFT's, which need settings")
    trained = get_peft_model(Network(), OFTConfig(target_modules=["turn"], oft_block_size=4, r=0, **options))
    rotation = trained.base_model.model.turn.oft_R["default"]
    rotation.weight.data = 0.3 * draw(5, *rotation.weight.shape)
    name = stem.format("turn")
    tensors = {f"{name}.oft_R.weight": rotation.weight.data.clone()}
    if scaled:
        tensors[f"{name}.oft_R.weight"] *= 2 * 3**0.5
        tensors[f"{name}.oft_R.scaled_oft"] = torch.tensor(True)
    path = save(tmp_path / "a.safetensors", tensors)
    assert_acts(path, {"turn.weight": trained.merge_and_unload().turn.weight.detach()})
    assert describe(path).kind == "OFT"


def test_an_embedding_table_is_changed_as_peft_changes_it(tmp_path: Path) -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 8), "turn": nn.Linear(8, 8)})
    before = deepcopy(model)
    trained = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=["table", "turn"]))
    for n, parameter in enumerate(trained.parameters()):
        if parameter.requires_grad:
            parameter.data = draw(30 + n, *parameter.shape)
    trained.save_pretrained(tmp_path, save_embedding_layers=False)
    after = trained.merge_and_unload().state_dict()
    path = tmp_path / "adapter_model.safetensors"
    merge(before, bind(read_lora(path), changeable(before)), 1.0)
    torch.testing.assert_close(before.state_dict(), dict(after), rtol=1e-4, atol=1e-5)


def test_the_butterfly_of_peft_with_several_stages(tmp_path: Path) -> None:
    block, count, stages = 2, 4, 3
    blocks, rescale = 0.3 * draw(1, stages, count, block, block), 1 + 0.2 * draw(2, 12, 1)
    layer = BOFTLayer(nn.Linear(8, 12))
    total = torch.eye(8)
    for stage in range(stages):
        order = layer.block_butterfly_perm(8, count // 2**stage, block // 2, stages - 1)
        matrix = layer.perm2mat(order)
        rotated = torch.block_diag(*layer.cayley_batch(blocks[stage]))
        total = matrix @ rotated @ matrix.T @ total
    tensors = {"base_model.model.0.boft_R": blocks, "base_model.model.0.boft_s": rescale}
    weight = draw(3, 12, 8)
    bound = bind(read_lora(save(tmp_path / "a.safetensors", tensors)), {"0": (12, 8)})["0"]
    torch.testing.assert_close(weight + bound.difference(weight), (total @ weight.T).T * rescale)


@pytest.mark.parametrize("size", [8, 24])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_butterflies_are_permutations(size: int, stage: int) -> None:
    assert sorted(butterfly(size, 2, stage).tolist()) == list(range(size))


def test_rotations_are_orthogonal_and_keep_norms(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors", {"lora_unet_0.oft_blocks": draw(1, 2, 4, 4)})
    change, weight = bind(read_lora(path), {"0": (8, 5)})["0"], draw(2, 8, 5)
    after = weight + change.difference(weight)
    torch.testing.assert_close(after.reshape(2, 4, 5).norm(dim=1), weight.reshape(2, 4, 5).norm(dim=1))
    skew = draw(3, 5, 5)
    rotation = cayley(skew - skew.T)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored", ["rotation", "what is added to the identity"])
def test_the_first_oft_of_lycoris_is_read_in_both_of_its_forms(tmp_path: Path, stored: str) -> None:
    added = 0.1 * draw(1, 3, 4, 4)
    tensor = added if stored != "rotation" else added + torch.eye(4)
    path = save(tmp_path / "a.safetensors", {"lora_unet_fold.oft_diag": tensor})
    before = Network().fold.weight.detach()
    rotation = torch.block_diag(*(added + torch.eye(4)))
    assert_acts(path, {"fold.weight": torch.einsum("nm,n...->m...", rotation, before)})


@pytest.mark.parametrize("taps", [(), (3, 3)])
def test_the_factors_of_older_glora_files_are_the_other_way_round(tmp_path: Path, taps: tuple[int, ...]) -> None:
    a1, a2, b1, b2 = draw(1, 2, 8), draw(2, 8, 2), draw(3, 2, 8, *taps), draw(4, 12, 2)
    tensors = {
        f"lora_unet_0.{name}.weight": tensor
        for name, tensor in zip(("a1", "a2", "b1", "b2"), (a1, a2, b1, b2), strict=True)
    }
    weight = draw(5, 12, 8, *taps)
    change = bind(read_lora(save(tmp_path / "a.safetensors", tensors)), {"0": tuple(weight.shape)})["0"]
    wanted = torch.einsum("oi...,ij->oj...", weight, a2 @ a1) + torch.einsum("or,ri...->oi...", b2, b1)
    torch.testing.assert_close(change.difference(weight), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.3])
def test_the_difference_is_proportional_to_the_strength(tmp_path: Path, strength: float) -> None:
    tensors = {"lora_unet_fold.oft_blocks": 0.2 * draw(1, 3, 4, 4), "lora_unet_turn.weight": draw(2, 12)}
    path = save(tmp_path / "a.safetensors", tensors | {"lora_unet_turn.on_input": torch.tensor(1)})
    before, changed = Network(), Network()
    merge(changed, bind(read_lora(path), changeable(before)), 1.0)
    wanted = {key: changed.state_dict()[key] for key in ("fold.weight", "turn.weight")}
    assert_acts(path, wanted, strength)


TINY = {f"transformer_blocks.0.attn.{name}": (6, 8) for name in ("to_q", "to_k", "to_v")}
TINY |= {"single_transformer_blocks.0.attn.to_q": (6, 8), "norm_out.linear": (16, 8)}
QKV = "lora_unet_double_blocks_0_img_attn_qkv"


@pytest.mark.parametrize("on_input", [0, 1])
def test_factors_of_a_layer_that_the_model_splits(tmp_path: Path, on_input: int) -> None:
    given = draw(1, 8 if on_input else 18)
    tensors = {f"{QKV}.weight": given, f"{QKV}.on_input": torch.tensor(on_input)}
    bound = bind(read_lora(save(tmp_path / "a.safetensors", tensors)), TINY)
    weights = draw(2, 18, 8).split(6)
    names = [name for name in TINY if name.startswith("transformer_blocks")]
    found = torch.cat([bound[name].difference(weight) for name, weight in zip(names, weights, strict=True)])
    torch.testing.assert_close(found, torch.cat(weights) * (given if on_input else given[:, None]))


def test_a_bias_of_a_layer_that_the_model_splits(tmp_path: Path) -> None:
    tensors = {f"{QKV}.lora_down.weight": draw(1, 2, 8), f"{QKV}.lora_up.weight": draw(2, 18, 2)}
    path = save(tmp_path / "a.safetensors", tensors | {f"{QKV}.diff_b": draw(3, 18)})
    bound = bind(read_lora(path), TINY)
    names = [f"{name}.bias" for name in TINY if name.startswith("transformer_blocks")]
    found = torch.cat([bound[name].difference(torch.zeros(6)) for name in names])
    torch.testing.assert_close(found, draw(3, 18))


@pytest.mark.parametrize("stem", [QKV, "lora_unet_final_layer_adaLN_modulation_1"])
def test_rows_that_are_rotated_together_cannot_be_split(tmp_path: Path, stem: str) -> None:
    rows = 18 if stem == QKV else 16
    path = save(tmp_path / "a.safetensors", {f"{stem}.oft_blocks": draw(1, rows // 2, 2, 2)})
    with pytest.raises(StyleError, match="this OFT rotates their common rows"):
        bind(read_lora(path), TINY)


ODD: dict[str, dict[str, Tensor]] = {
    "blocks that are not square": {"oft_blocks": torch.ones(2, 3, 4)},
    "no triangle": {"oft_R.weight": torch.ones(2, 4)},
    "an odd butterfly": {"oft_blocks": torch.ones(2, 2, 3, 3)},
    "a factor for each of two sides": {"weight": torch.ones(3, 4), "on_input": torch.tensor(0)},
    "sparse places beyond the weight": {
        "bias_indices": torch.tensor([[9], [0]]),
        "bias_values": torch.ones(1),
        "bias_size": torch.tensor([4, 4]),
    },
    "products of different inputs": {
        "a1.weight": torch.ones(5, 2),
        "a2.weight": torch.ones(2, 5),
        "b1.weight": torch.ones(6, 2),
        "b2.weight": torch.ones(2, 4),
    },
}


@pytest.mark.parametrize("name", ODD)
def test_tensors_that_do_not_fit_together(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "adapter_model.safetensors", {f"lora_unet_0.{role}": t for role, t in ODD[name].items()})
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "OFT", "r": 2}')
    with pytest.raises(StyleError, match="do not fit together"):
        read_lora(path)


@pytest.mark.parametrize(
    ("tensors", "lacking"),
    [
        ({"oft_blocks": None, "rescale": torch.ones(4)}, "oft_blocks"),
        ({"on_input": torch.tensor(0)}, "weight"),
        ({"a1.weight": torch.ones(4, 2)}, "a2"),
        ({"boft_R": torch.ones(1, 2, 2, 2)}, "boft_s"),
        ({"bias_values": torch.ones(1)}, "bias_indices"),
    ],
)
def test_a_missing_partner_is_named(tmp_path: Path, tensors: dict[str, Tensor | None], lacking: str) -> None:
    given = {f"lora_unet_0.{role}": tensor for role, tensor in tensors.items() if tensor is not None}
    with pytest.raises(StyleError, match=f"it lacks {lacking}"):
        read_lora(save(tmp_path / "a.safetensors", given))


@pytest.mark.parametrize(
    ("key", "shape", "kind"),
    [("oft_R.weight", (2, 6), "OFT"), ("ia3_l", (1, 8, 1, 1), "IA3 of convolutions")],
)
def test_peft_files_that_need_their_settings(tmp_path: Path, key: str, shape: tuple[int, ...], kind: str) -> None:
    path = save(tmp_path / "a.safetensors", {f"base_model.model.fold.{key}": torch.ones(shape)})
    with pytest.raises(StyleError, match=f"is {kind} made with PEFT, which needs its adapter_config.json") as caught:
        read_lora(path)
    assert "beside it" in str(caught.value.hint)


def test_a_series_of_a_million_terms_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "adapter_model.safetensors", {"base_model.model.fold.oft_R.weight": torch.ones(3, 6)})
    config = {"peft_type": "OFT", "num_cayley_neumann_terms": 1_000_000}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(StyleError, match="num_cayley_neumann_terms must be at most 100"):
        read_lora(path)


STATED = {
    "a PiSSA file": {"init_lora_weights": "pissa_niter_16"},
    "an OLoRA file": {"init_lora_weights": "olora"},
    "an AdaLoRA file": {"peft_type": "ADALORA"},
    "FourierFT file": {"peft_type": "FOURIERFT"},
    "PEFT HRA file": {"peft_type": "HRA"},
    "is an? activated LoRA file": {"alora_invocation_tokens": [1, 2]},
    "QALoRA file": {"use_qalora": True},
    "LoRA with repeated layers file": {"layer_replication": [[0, 2]]},
}


@pytest.mark.parametrize("kind", STATED)
def test_settings_that_change_the_mathematics_are_never_dropped(tmp_path: Path, kind: str) -> None:
    tensors = {
        "base_model.model.turn.lora_A.weight": draw(1, 2, 12),
        "base_model.model.turn.lora_B.weight": draw(2, 8, 2),
    }
    path = save(tmp_path / "a.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2} | STATED[kind]))
    with pytest.raises(StyleError, match=f"{kind}, which is not supported"):
        read_lora(path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2, "init_lora_weights": "eva"}))
    assert read_lora(path).ranks == (2,)


def test_nothing_of_a_lycoris_file_is_lost(tmp_path: Path) -> None:
    tensors = factors() | {"lora_unet_turn.unheard_of": torch.ones(1)}
    path = save(tmp_path / "a.safetensors", tensors)
    assert set(load_file(path)) == set(tensors)
    with pytest.raises(StyleError, match=r"belong to no LoRA, such as 'lora_unet_turn\.unheard_of'"):
        read_lora(path)


ROLES = {
    **{f"lora_{side}.weight": (2, 3) for side in ("down", "up", "mid")},
    **{role: (2, 3) for role in ("diff", "diff_b", "w_norm", "weight", "bias", "alpha", "dora_scale", "lora_B.bias")},
    **{role: (2, 4, 4) for role in ("oft_blocks", "oft_diag", "rescale", "boft_R", "boft_s")},
    **{f"{role}.weight": (8, 2) for role in ("a1", "a2", "b1", "b2", "bm", "oft_R")},
    **{role: (1, 8) for role in ("on_input", "ia3_l", "bias_indices", "bias_values", "bias_size", "hada_w1_a")},
    **{role: (8, 2) for role in ("lora_embedding_A", "lora_embedding_B", "lokr_w1", "lokr_w2", "hada_t1")},
}
SIDES = st.sampled_from([0, 1, 2, 3, 4, 8])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.dictionaries(st.sampled_from(sorted(ROLES)), st.lists(SIDES, max_size=4), min_size=1, max_size=6),
    usual=st.booleans(),
    weight=st.sampled_from([(8, 8), (8, 2), (2, 8), (8,), (8, 2, 3, 3)]),
    seed=st.integers(0, 9),
)
def test_any_tensors_of_any_shapes_act_or_are_refused(
    tmp_path: Path, shapes: dict[str, list[int]], usual: bool, weight: tuple[int, ...], seed: int
) -> None:
    tensors = {
        f"unet.0.{role}": draw(seed, *(ROLES[role] if usual else tuple(shape))).abs() for role, shape in shapes.items()
    }
    path = save(tmp_path / "a.safetensors", tensors)
    model = {"0": weight, "0.bias": (weight[0],)}
    try:
        bound = bind(read_lora(path), model)
    except StyleError:
        return
    for name, change in bound.items():
        base = draw(7, *model[name])
        assert change.difference(base).shape == base.shape
