"""Every kind of adapter against its formula in float64, and against PEFT, in both ways of applying it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

from stylescore.diffusion.adapters import Adapted, Adapters, Route, adaptable, merge
from stylescore.lora import Change, bind, describe, read_lora, stack

Array = NDArray[np.float64]
Made = tuple[dict[str, Tensor], Array]
ALPHA = 3.0
STRENGTH = 0.7


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wide(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def lora(out: int, inner: int, taps: tuple[int, ...]) -> Made:
    down, up = draw(1, 2, inner, *taps), draw(2, out, 2, *(1 for _ in taps))
    delta = ALPHA / 2 * np.einsum("or,r...->o...", wide(up).reshape(out, 2), wide(down))
    return {"lora_down.weight": down, "lora_up.weight": up}, delta


def locon_core(out: int, inner: int, taps: tuple[int, ...]) -> Made:
    down, up, mid = draw(1, 3, inner, 1, 1), draw(2, out, 2, 1, 1), draw(3, 2, 3, *taps)
    delta = np.einsum("oi,ijkl,jn->onkl", wide(up)[..., 0, 0], wide(mid), wide(down)[..., 0, 0])
    return {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}, ALPHA / 2 * delta


def loha(out: int, inner: int, taps: tuple[int, ...]) -> Made:
    columns = inner * int(np.prod(taps))
    a1, b1, a2, b2 = draw(1, out, 2), draw(2, 2, columns), draw(3, out, 2), draw(4, 2, columns)
    delta = (wide(a1) @ wide(b1)) * (wide(a2) @ wide(b2))
    names = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
    return names, ALPHA / 2 * delta.reshape(out, inner, *taps)


def loha_core(out: int, inner: int, taps: tuple[int, ...]) -> Made:
    names: dict[str, Tensor] = {}
    products = []
    for n in (1, 2):
        a, b, t = draw(n, 2, out), draw(10 * n, 2, inner), draw(100 * n, 2, 2, *taps)
        names |= {f"hada_w{n}_a": a, f"hada_w{n}_b": b, f"hada_t{n}": t}
        products.append(np.einsum("ijkl,io,jn->onkl", wide(t), wide(a), wide(b)))
    return names, ALPHA / 2 * products[0] * products[1]


def kron(left: Array, right: Array) -> Array:
    """The Kronecker product entry by entry: out = (o, p), in = (i, j), taps from the right factor."""
    product = np.einsum("oi,pj...->opij...", left, right)
    return product.reshape(product.shape[0] * product.shape[1], product.shape[2] * product.shape[3], *right.shape[2:])


def lokr(first: str, second: str) -> Callable[[int, int, tuple[int, ...]], Made]:
    """Return a maker of a LoKr of 2x4 and 3x2; ranks 2 and 3 tell which one scales it."""

    def make(out: int, inner: int, taps: tuple[int, ...]) -> Made:
        names: dict[str, Tensor] = {}
        rank = None
        if first == "full":
            names["lokr_w1"] = draw(1, 2, 4)
            left = wide(names["lokr_w1"])
        else:
            names |= {"lokr_w1_a": draw(1, 2, 2), "lokr_w1_b": draw(2, 2, 4)}
            left, rank = wide(names["lokr_w1_a"]) @ wide(names["lokr_w1_b"]), 2
        if second == "full":
            names["lokr_w2"] = draw(3, 3, 2, *taps)
            right = wide(names["lokr_w2"])
        elif second == "core":
            names |= {"lokr_w2_a": draw(3, 3, 3), "lokr_w2_b": draw(4, 3, 2), "lokr_t2": draw(5, 3, 3, *taps)}
            pieces = [wide(names[name]) for name in ("lokr_t2", "lokr_w2_a", "lokr_w2_b")]
            right, rank = np.einsum("ijkl,ip,jr->prkl", *pieces), 3
        else:
            names |= {"lokr_w2_a": draw(3, 3, 3), "lokr_w2_b": draw(4, 3, 2 * int(np.prod(taps)))}
            right, rank = (wide(names["lokr_w2_a"]) @ wide(names["lokr_w2_b"])).reshape(3, 2, *taps), 3
        return names, (ALPHA / rank if rank else 1.0) * kron(left, right)

    return make


KINDS: dict[str, tuple[str, Callable[[int, int, tuple[int, ...]], Made], tuple[int, ...]]] = {
    "LoRA": ("LoRA", lora, ()),
    "LoRA on a 1x1 convolution": ("LoRA", lora, (1, 1)),
    "LoCon": ("LoCon", lora, (3, 3)),
    "LoCon with a core": ("LoCon", locon_core, (3, 3)),
    "LoHa": ("LoHa", loha, ()),
    "LoHa on a convolution": ("LoHa", loha, (3, 3)),
    "LoHa with cores": ("LoHa", loha_core, (3, 3)),
    "LoKr, both full": ("LoKr", lokr("full", "full"), ()),
    "LoKr, full and low": ("LoKr", lokr("full", "low"), ()),
    "LoKr, low and full": ("LoKr", lokr("low", "full"), ()),
    "LoKr, both low": ("LoKr", lokr("low", "low"), ()),
    "LoKr on a convolution, both full": ("LoKr", lokr("full", "full"), (3, 3)),
    "LoKr on a convolution, both low": ("LoKr", lokr("low", "low"), (3, 3)),
    "LoKr on a convolution, with a core": ("LoKr", lokr("low", "core"), (3, 3)),
}
LENGTHS = ("none", "columns", "rows", "flat rows", "PEFT's")


def network(taps: tuple[int, ...]) -> nn.Sequential:
    layer = nn.Conv2d(8, 6, taps, padding=taps[0] // 2) if taps else nn.Linear(8, 6)
    layer.weight.data = draw(50, *layer.weight.shape)
    return nn.Sequential(layer)


def lengths_of(kind: str, taps: tuple[int, ...]) -> tuple[str, Tensor] | None:
    """Return the name and tensor of DoRA's lengths in one of the conventions that files have."""
    ones = (1,) * len(taps)
    match kind:
        case "columns":
            return "dora_scale", draw(60, 1, 8, *ones).abs() + 1
        case "rows":
            return "dora_scale", draw(61, 6, 1, *ones).abs() + 1
        case "flat rows":
            return "dora_scale", draw(62, 6).abs() + 1
        case "PEFT's":
            return "lora_magnitude_vector", draw(63, *((1, 6, *ones) if taps else (6,))).abs() + 1
        case _:
            return None


def decomposed(weight: Array, delta: Array, lengths: Tensor, by_rows: bool) -> Array:
    """Return W' - W, one row or column after another."""
    turned = (weight + delta).copy()
    for n, length in enumerate(wide(lengths).ravel()):
        part = turned[n] if by_rows else turned[:, n]
        part *= length / np.sqrt((part**2).sum())
    return turned - weight


def make(name: str, lengths: str, path: Path) -> tuple[dict[str, Change], Array, nn.Sequential]:
    """Write an adapter as a file and return it bound, with its difference at strength 1, and its network."""
    _, maker, taps = KINDS[name]
    tensors, delta = maker(6, 8, taps)
    model = network(taps)
    weight = wide(model[0].weight.data)
    told = lengths_of(lengths, taps)
    if told is not None:
        tensors[told[0]] = told[1]
        delta = decomposed(weight, delta, told[1], by_rows=lengths != "columns")
    tensors["alpha"] = torch.tensor(ALPHA)
    save_file({f"lora_unet_0.{role}": tensor for role, tensor in tensors.items()}, path)
    return bind(read_lora(path), adaptable(model)), delta, model


def output(model: nn.Sequential, x: Tensor, weight: Array) -> Tensor:
    """Return what the network's layer gives with another weight, computed in float64."""
    layer = deepcopy(model[0].base if isinstance(model[0], Adapted) else model[0]).double()
    layer.weight.data = torch.from_numpy(weight)
    return layer(x.double())


def near(found: Tensor, expected: Array | Tensor) -> bool:
    wanted = torch.as_tensor(expected)
    return found.shape == wanted.shape and torch.allclose(found.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", KINDS)
def test_branch_and_merge_equal_the_formula(tmp_path: Path, name: str, lengths: str) -> None:
    bound, difference, branched = make(name, lengths, tmp_path / "a.safetensors")
    before = wide(branched[0].weight.data)
    expected = before + STRENGTH * difference
    assert np.abs(difference).max() > 0.1
    merged = deepcopy(branched)
    merge(merged, bound, STRENGTH)
    assert near(merged[0].weight.data, expected)
    adapters = Adapters.of(branched)
    x = draw(70, 2, 8, 5, 4) if KINDS[name][2] else draw(70, 2, 8)
    wanted = output(branched, x, expected)
    adapters.add_style(bound, STRENGTH)
    with adapters.switch.set(Route(style=True)):
        assert near(branched(x), wanted.detach())
    assert near(branched(x), output(branched, x, before).detach())


@pytest.mark.parametrize("name", ["LoRA", "LoCon", "LoCon with a core"])
def test_low_rank_kinds_keep_their_two_small_products(tmp_path: Path, name: str) -> None:
    bound, _, model = make(name, "none", tmp_path / "a.safetensors")
    Adapters.of(model).add_style(bound, STRENGTH)
    branch = model[0].style
    assert branch.dense is None
    assert (branch.down.shape[:2], branch.up.shape[:2]) == ((2, 8), (6, 2))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("lengths", ["none", "rows"])
def test_kind_and_rank_are_told(tmp_path: Path, name: str, lengths: str) -> None:
    make(name, lengths, tmp_path / "a.safetensors")
    report = describe(tmp_path / "a.safetensors")
    kind = KINDS[name][0] if lengths == "none" else f"DoRA on {KINDS[name][0]}"
    ranks = {"LoKr, both full": (), "LoKr on a convolution, both full": (), "LoKr, low and full": (2,)}
    usual = (3,) if "LoKr" in name else (2,)
    assert (report.usable, report.reason, report.kind) == (True, None, kind)
    assert report.ranks == ranks.get(name, usual)
    assert report.alphas == ((ALPHA,) if report.ranks else ())
    assert report.unet.total == 1


MIX = [("LoRA", "none", 0.5), ("LoKr, both low", "none", -0.4), ("LoHa", "rows", 0.6), ("LoRA", "columns", 0.3)]


def mixture(folder: Path) -> tuple[list[tuple[dict[str, Change], float]], Array, nn.Sequential]:
    made = [make(name, lengths, folder / f"{n}.safetensors") for n, (name, lengths, _) in enumerate(MIX)]
    total = sum((share * delta for (_, delta, _), (*_, share) in zip(made, MIX, strict=True)), np.zeros((6, 8)))
    return [(bound, share) for (bound, *_), (*_, share) in zip(made, MIX, strict=True)], total, made[0][2]


@pytest.mark.parametrize("way", ["adapter", "merge"])
def test_several_adapters_on_one_layer_add_up(tmp_path: Path, way: str) -> None:
    parts, total, model = mixture(tmp_path)
    expected = wide(model[0].weight.data) + STRENGTH * total
    x = draw(71, 3, 8)
    wanted = output(model, x, expected).detach()
    if way == "merge":
        merge(model, stack(parts), STRENGTH)
        assert near(model(x), wanted)
        return
    adapters = Adapters.of(model)
    adapters.add_style(stack(parts), STRENGTH)
    with adapters.switch.set(Route(style=True)):
        assert near(model(x), wanted)


def test_a_second_style_of_low_rank_stays_low_rank(tmp_path: Path) -> None:
    bound, delta, model = make("LoRA", "none", tmp_path / "a.safetensors")
    adapters = Adapters.of(model)
    adapters.add_style(stack([(bound, 1.0), (bound, 0.5)]), 1.0)
    layer = model[0].style
    assert (layer.dense, layer.down.shape, layer.up.shape) == (None, (4, 8), (6, 4))
    assert near(layer.up @ layer.down, 1.5 * delta)


def test_a_column_of_zeros_stays_zero() -> None:
    from stylescore.lora.deltas import Decomposed, Product

    weight = draw(80, 3, 4)
    weight[:, 2] = 0
    nothing = Product(torch.zeros(1, 4), torch.zeros(3, 1))
    difference = Decomposed(nothing, torch.ones(1, 4)).difference(weight)
    assert not difference[:, 2].any()
    assert near((weight + difference)[:, [0, 1, 3]].norm(dim=0), torch.ones(3).double())


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fold = nn.Conv2d(8, 6, 3)
        self.turn = nn.Linear(6, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self.fold(x).mean(dim=(2, 3)))


BOTH = ["fold", "turn"]
PEFTS: dict[str, Any] = {
    "LoRA": LoraConfig(r=2, lora_alpha=3, target_modules=BOTH, alpha_pattern={"turn": 5}),
    "rank-stabilised LoRA": LoraConfig(r=2, lora_alpha=3, target_modules=BOTH, use_rslora=True),
    "DoRA": LoraConfig(r=2, lora_alpha=3, target_modules=BOTH, use_dora=True),
    "LoHa": LoHaConfig(r=2, alpha=3, target_modules=BOTH),
    "LoHa with cores": LoHaConfig(r=2, alpha=3, target_modules=BOTH, use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=2, alpha=3, target_modules=BOTH, decompose_both=True, rank_pattern={"turn": 1}),
    "LoKr with a core": LoKrConfig(r=1, alpha=3, target_modules=BOTH, use_effective_conv2d=True),
    "LoKr, both full": LoKrConfig(r=64, alpha=3, target_modules=BOTH),
}


@pytest.mark.parametrize("name", PEFTS)
def test_what_peft_saves_changes_weights_as_peft_does(tmp_path: Path, name: str) -> None:
    model = Pair()
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    trained = get_peft_model(model, deepcopy(PEFTS[name]))
    for n, (key, parameter) in enumerate(trained.named_parameters()):
        if parameter.requires_grad:
            parameter.data.add_(
                0.3 * draw(90 + n, *parameter.shape).abs() if "magnitude" in key else draw(90 + n, *parameter.shape)
            )
    trained.save_pretrained(tmp_path)
    after = trained.merge_and_unload().state_dict()
    ours = Pair()
    ours.load_state_dict(before)
    merge(ours, bind(read_lora(tmp_path / "adapter_model.safetensors"), adaptable(ours)), 1.0)
    for key in ("fold.weight", "turn.weight"):
        assert (after[key] - before[key]).abs().max() > 0.01
        assert torch.allclose(ours.state_dict()[key], after[key], rtol=1e-4, atol=1e-4)


def test_wrapped_layers_are_the_only_ones_with_a_branch(tmp_path: Path) -> None:
    bound, _, model = make("LoKr, both low", "none", tmp_path / "a.safetensors")
    Adapters.of(model).add_style(bound, STRENGTH)
    assert isinstance(model[0], Adapted)
    assert not list(model[0].style.parameters())
