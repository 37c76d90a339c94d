"""LPIPS and its trunks: against torchmetrics and torchvision where they are, and what must hold with any weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError, PictureError
from stylescore.metrics.lpips import Lpips
from stylescore.metrics.trunks import VGG16, VGG19, Trunk, make_alexnet, make_vgg

CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
MAKERS = {"alex": Lpips.with_alexnet, "vgg": Lpips.with_vgg}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def trunk_state(net: str) -> dict[str, Tensor]:
    """Return random weights in torchvision's names, with a classifier's among them."""
    trunk = make_alexnet() if net == "alex" else make_vgg(VGG16)
    state = {
        name: (2 / max(1, tensor[0].numel())) ** 0.5 * noise(*tensor.shape, seed=n)
        for n, (name, tensor) in enumerate(trunk.state_dict().items())
    }
    return {**state, "classifier.6.weight": torch.zeros(1, 1)}


def linear_state(net: str) -> dict[str, Tensor]:
    return {f"lin{n}.model.1.weight": noise(1, c, 1, 1, seed=n).abs() for n, c in enumerate(CHANNELS[net])}


@cache
def network(net: str) -> Lpips:
    return MAKERS[net](trunk_state(net), linear_state(net))


def pictures(seed: int, height: int = 48, width: int = 64) -> Tensor:
    return 2 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.mark.parametrize(
    ("trunk", "layers", "parameters"),
    [(make_alexnet(), 13, 2_469_696), (make_vgg(VGG16), 31, 14_714_688), (make_vgg(VGG19), 37, 20_024_384)],
    ids=["AlexNet", "VGG16", "VGG19"],
)
def test_trunks_have_the_layers_and_parameters_of_the_published_networks(
    trunk: Trunk, layers: int, parameters: int
) -> None:
    assert len(trunk.features) == layers
    assert sum(parameter.numel() for parameter in trunk.parameters()) == parameters


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_sum_over_levels_written_out_by_hand(net: str) -> None:
    """Recomputed layer by layer with functional calls, in double precision."""
    first, second, state, lpips = pictures(1), pictures(2), trunk_state(net), network(net)
    total = torch.zeros(2, dtype=torch.float64)
    levels = [_levels(x, state, lpips) for x in (first, second)]
    assert len(levels[0]) == 5
    for n, (a, b) in enumerate(zip(*levels, strict=True)):
        weight = linear_state(net)[f"lin{n}.model.1.weight"].double()
        total += (weight * (a - b) ** 2).sum(1).mean((1, 2))
    assert torch.allclose(lpips(first, second).double(), total, rtol=1e-4)


def _levels(x: Tensor, state: dict[str, Tensor], lpips: Lpips) -> list[Tensor]:
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (x.double() - shift.view(3, 1, 1).double()) / scale.view(3, 1, 1).double()
    found = []
    for number, layer in enumerate(lpips.trunk.features[: lpips.taps[-1] + 1]):
        weight = state.get(f"features.{number}.weight")
        if weight is not None:
            x = torch.conv2d(x, weight.double(), state[f"features.{number}.bias"].double(), layer.stride, layer.padding)
        else:
            x = layer(x)
        if number in lpips.taps:
            found.append(x / x.square().sum(1, keepdim=True).sqrt())
    return found


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_it_is_the_distance_of_torchmetrics(net: str) -> None:
    pytest.importorskip("torchvision")
    reference: Any = pytest.importorskip("torchmetrics.functional.image.lpips")
    theirs = reference._LPIPS(pretrained=False, net=net, pnet_rand=True, eval_mode=True)
    layers = [layer for part in theirs.net.children() if hasattr(part, "children") for layer in part.children()]
    for layer, ours in zip(layers, network(net).trunk.features, strict=False):
        layer.load_state_dict(ours.state_dict())
    theirs.load_state_dict(linear_state(net), strict=False)
    with torch.no_grad():
        expected = theirs(pictures(1), pictures(2)).flatten()
    assert torch.allclose(network(net)(pictures(1), pictures(2)), expected, rtol=1e-4)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_pictures_are_at_zero_the_order_does_not_matter_and_a_batch_equals_its_pairs(net: str) -> None:
    lpips, first, second = network(net), pictures(3), pictures(4)
    assert lpips(first, first).tolist() == [0, 0]
    assert torch.equal(lpips(first, second), lpips(second, first))
    alone = torch.cat([lpips(first[n : n + 1], second[n : n + 1]) for n in range(2)])
    assert torch.allclose(lpips(first, second), alone, rtol=1e-5)


def test_a_shift_by_one_pixel_is_nearer_than_another_picture() -> None:
    smooth = torch.nn.functional.interpolate(pictures(5, 8, 8), size=(64, 64), mode="bicubic")
    other = torch.nn.functional.interpolate(pictures(6, 8, 8), size=(64, 64), mode="bicubic")
    shifted, apart = network("alex")(smooth, smooth.roll(1, 3)), network("alex")(smooth, other)
    assert bool((shifted > 0).all())
    assert bool((shifted < apart).all())


def test_weights_and_pictures_that_do_not_fit_are_refused() -> None:
    lacking = {key: value for key, value in trunk_state("alex").items() if key != "features.3.weight"}
    with pytest.raises(ModelError, match=r"AlexNet do not fit.*features\.3\.weight"):
        Lpips.with_alexnet(lacking, linear_state("alex"))
    with pytest.raises(ModelError, match=r"linear weights.*VGG16: level 1"):
        Lpips.with_vgg(trunk_state("vgg"), linear_state("alex"))
    with pytest.raises(PictureError, match="sides of at least 35"):
        network("alex")(pictures(1, 34, 64), pictures(1, 34, 64))
    assert network("alex")(pictures(1, 35, 35), pictures(2, 35, 35)).isfinite().all()
    assert network("vgg")(pictures(1, 16, 16), pictures(2, 16, 16)).isfinite().all()
    with pytest.raises(PictureError, match="the same shape"):
        network("vgg")(pictures(1, 64, 64), pictures(1, 48, 64))
