"""Inception v3: against torchvision and torch-fidelity where they are, and its two kinds of pooling by hand."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError
from stylescore.metrics.inception import FID_SIDE, Inception, resize_for_fid


@cache
def state() -> dict[str, Tensor]:
    """Return random weights with batch norms that do something."""
    rng = torch.Generator().manual_seed(0)
    weights = Inception(of_2015=True).state_dict()
    for name, tensor in weights.items():
        if name.endswith("conv.weight"):
            tensor.copy_((2 / tensor[0].numel()) ** 0.5 * torch.randn(tensor.shape, generator=rng))
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=rng))
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    return weights


@cache
def network(*, of_2015: bool) -> Inception:
    return Inception.from_state({**state(), "fc.weight": torch.zeros(1008, 2048)}, of_2015=of_2015)


def pictures(height: int, width: int, seed: int = 1) -> Tensor:
    levels = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return levels / 127.5 - 1


def test_it_has_the_parameters_of_the_published_network() -> None:
    """Torchvision's 27,161,264 without the 3,326,696 of its second classifier and the 2,049,000 of the first."""
    assert (
        sum(parameter.numel() for parameter in network(of_2015=True).parameters()) == 27_161_264 - 3_326_696 - 2_049_000
    )


def test_the_later_network_is_torchvisions() -> None:
    torchvision: Any = pytest.importorskip("torchvision")
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False).eval()
    theirs.load_state_dict({**theirs.state_dict(), **state()})
    theirs.fc = torch.nn.Identity()
    x = pictures(150, 110)
    with torch.no_grad():
        assert torch.allclose(network(of_2015=False)(x), theirs((x + 1) / 2), atol=1e-5)


def test_the_network_of_2015_is_torch_fidelitys(tmp_path: Path) -> None:
    reference: Any = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    head = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    torch.save({**state(), **head}, tmp_path / "weights.pth")
    theirs = reference.FeatureExtractorInceptionV3("inception", ["2048"], str(tmp_path / "weights.pth"))
    x = pictures(FID_SIDE, FID_SIDE)
    levels = ((x + 1) * 127.5).round()
    with torch.no_grad():
        (expected,) = theirs(levels.to(torch.uint8))
        ours = network(of_2015=True)((levels - 128) / 128)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_pooling_of_2015_leaves_the_border_out_of_the_mean_and_ends_with_a_maximum() -> None:
    ones = torch.ones(1, 1, 3, 3)
    ends = [partial(network(of_2015=kind).Mixed_7c.pool) for kind in (True, False)]
    assert network(of_2015=True).Mixed_5b.pool(ones).tolist() == ones.tolist()
    assert network(of_2015=False).Mixed_5b.pool(ones)[0, 0].tolist()[0] == pytest.approx([4 / 9, 6 / 9, 4 / 9])
    ramp = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert ends[0](ramp)[0, 0, 1, 1] == 8
    assert ends[1](ramp)[0, 0, 1, 1] == 4


def test_fids_pictures_are_resized_without_a_low_pass_filter() -> None:
    """Halving by bilinear interpolation takes the mean of the two middle pixels of every four."""
    columns = torch.arange(4.0 * FID_SIDE)
    small = resize_for_fid(columns.expand(1, 3, FID_SIDE, -1))
    assert small.shape == (1, 3, FID_SIDE, FID_SIDE)
    assert torch.allclose(small[0, 0, 0], columns.reshape(-1, 4)[:, 1:3].mean(1))


@pytest.mark.parametrize("of_2015", [True, False])
def test_a_batch_equals_its_pictures_one_by_one(of_2015: bool) -> None:
    x = pictures(90, 75)
    alone = torch.cat([network(of_2015=of_2015)(x[n : n + 1]) for n in range(2)])
    assert network(of_2015=of_2015)(x).shape == (2, 2048)
    assert torch.allclose(network(of_2015=of_2015)(x), alone, atol=1e-4)


def test_weights_that_do_not_fit_are_refused() -> None:
    lacking = {name: tensor for name, tensor in state().items() if name != "Mixed_6e.branch7x7_2.conv.weight"}
    with pytest.raises(ModelError, match=r"lack 'Mixed_6e\.branch7x7_2\.conv\.weight'"):
        Inception.from_state(lacking, of_2015=True)
    old = {name: tensor for name, tensor in state().items() if not name.endswith("num_batches_tracked")}
    assert Inception.from_state(old, of_2015=False)
