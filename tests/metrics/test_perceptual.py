"""LPIPS with random weights: what must hold whatever the weights are."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError, PictureError
from stylescore.metrics.perceptual import PUBLISHED_NAMES, Blur, PerceptualDistance

FILTER = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


@cache
def state() -> dict[str, Tensor]:
    """Return random weights under their published names, those of the levels positive."""
    rng = torch.Generator().manual_seed(0)
    ours = PerceptualDistance().state_dict()
    drawn = {name: 0.05 * torch.randn(tensor.shape, generator=rng) for name, tensor in ours.items()}
    kept = {name: ours[name] for name in ours if "kernel" in name or name in ("shift", "scale")}
    levels = {name: drawn[name].abs() for name in ours if name.startswith("weights")}
    return {PUBLISHED_NAMES[name]: tensor for name, tensor in (drawn | kept | levels).items()}


def pictures(seed: int, count: int = 2, height: int = 32, width: int = 48) -> Tensor:
    return 2 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


def test_it_takes_every_published_tensor_and_no_other() -> None:
    network = PerceptualDistance.from_state(state())
    assert len(PUBLISHED_NAMES) == len(state()) == 20
    assert sum(parameter.numel() for parameter in network.parameters()) == 2_470_848
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("height", "width"), [(64, 80), (33, 47)])
def test_it_is_the_published_network_written_out_by_hand(height: int, width: int) -> None:
    """Layer by layer under the published names, in double precision, blurred by sums of shifted pictures."""
    weights = {name: tensor.double() for name, tensor in state().items()}
    first, second = pictures(8, 2, height, width), pictures(9, 2, height, width)
    total = torch.zeros(2, dtype=torch.float64)
    for n, (a, b) in enumerate(zip(_levels(first, weights), _levels(second, weights), strict=True)):
        total += (weights[f"lin{n}.model.1.weight"] * (a - b) ** 2).sum(1).mean((1, 2))
    found = PerceptualDistance.from_state(state())(first, second)
    assert found.double().tolist() == pytest.approx(total.tolist(), rel=1e-4)


def _levels(x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    x = (x.double() - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"]
    found = []
    for n, (name, border) in enumerate(
        (("slice1.0", 2), ("slice2.5", 2), ("slice3.9", 1), ("slice4.11", 1), ("slice5.13", 1))
    ):
        if n in (1, 2):
            x = _half(torch.nn.functional.max_pool2d(x, 3, stride=1))
        x = torch.conv2d(x, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], padding=border)
        x = (_half(x) if n == 0 else x).clamp(min=0)
        found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
    return found


def _half(x: Tensor) -> Tensor:
    """Return every second position of a picture that is blurred with 1, 2, 1 along both axes."""
    for dim in (2, 3):
        rows = x.unbind(dim)
        mirrored = [rows[2], rows[1], *rows, rows[-2], rows[-3]]
        x = torch.stack(
            [(mirrored[n] + 2 * mirrored[n + 1] + mirrored[n + 2]) / 4 for n in range(0, len(mirrored) - 2, 2)], dim
        )
    return x


def test_a_picture_is_at_distance_zero_of_itself() -> None:
    assert PerceptualDistance.from_state(state())(pictures(1), pictures(1)).tolist() == [0, 0]


def test_the_order_does_not_matter() -> None:
    network = PerceptualDistance.from_state(state())
    there, back = network(pictures(1), pictures(2)), network(pictures(2), pictures(1))
    assert torch.equal(there, back)
    assert bool((there > 0).all())


def test_a_batch_equals_its_pairs_one_by_one() -> None:
    network = PerceptualDistance.from_state(state())
    first, second = pictures(3, 3, 40, 24), pictures(4, 3, 40, 24)
    alone = [network(first[n : n + 1], second[n : n + 1]) for n in range(3)]
    assert torch.allclose(network(first, second), torch.cat(alone), rtol=1e-5)


def test_a_small_change_costs_less_than_a_large_one() -> None:
    network = PerceptualDistance.from_state(state())
    source, noise = pictures(5), pictures(6)
    near, far = (network(source, source + share * noise) for share in (0.1, 0.5))
    assert bool((near < far).all())


def test_the_levels_are_unit_vectors_with_alexnets_channels() -> None:
    levels = PerceptualDistance.from_state(state()).levels(pictures(7, 1, 64, 64))
    assert [tuple(level.shape) for level in levels] == [
        (1, 64, 30, 30),
        (1, 192, 15, 15),
        (1, 384, 8, 8),
        (1, 256, 8, 8),
        (1, 256, 8, 8),
    ]
    lengths = levels[1].norm(dim=1)
    assert torch.allclose(lengths[lengths > 0.5], torch.ones(1))


def test_the_blur_keeps_a_plain_picture_plain_and_halves_it() -> None:
    blur = Blur(2)
    assert torch.equal(blur.kernel, FILTER.expand(2, 1, 3, 3))
    assert torch.allclose(blur(torch.full((1, 2, 8, 6), 3.0)), torch.full((1, 2, 5, 4), 3.0))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (pictures(1), pictures(1, 2, 32, 40), "must have the same shape"),
        (pictures(1)[0], pictures(1)[0], "must be"),
        (pictures(1)[:, :1], pictures(1)[:, :1], "must be"),
        (pictures(1, 1, 20, 99), pictures(1, 1, 20, 99), "at least 21"),
    ],
)
def test_other_shapes_are_refused(first: Tensor, second: Tensor, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        PerceptualDistance.from_state(state())(first, second)


def test_the_smallest_picture_is_taken() -> None:
    assert PerceptualDistance.from_state(state())(pictures(1, 1, 21, 21), pictures(2, 1, 21, 21)).shape == (1,)


def test_weights_that_do_not_fit_are_refused() -> None:
    lacking = {name: tensor for name, tensor in state().items() if name != "net.slice4.11.bias"}
    with pytest.raises(ModelError, match=r"lack 'net\.slice4\.11\.bias'"):
        PerceptualDistance.from_state(lacking)
    with pytest.raises(ModelError, match="do not fit"):
        PerceptualDistance.from_state(state() | {"lin0.model.1.weight": torch.zeros(1, 63, 1, 1)})
