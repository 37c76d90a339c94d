from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylescore.errors import ConfigError, PictureError
from stylescore.generators.kinds import DEFAULTS, NETWORKS, make_generator
from stylescore.generators.layers import check_inputs
from stylescore.generators.mobile import PIXELS, Enlarge, MobileGenerator
from stylescore.generators.resnet import ResnetGenerator

SMALL = {"width": 4, "blocks": 1}

OWN = [name for name in NETWORKS if name != "lora"]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def inputs(height: int, width: int, channels: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(height * width)
    photo = torch.rand(batch, 3, height, width, generator=rng)
    return photo, torch.randn(batch, channels, -(-height // 8), -(-width // 8), generator=rng)


def trained(module: nn.Module) -> nn.Module:
    """Return a network none of whose weights is zero, as after a training."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=rng)
    return module.eval()


def test_the_resnet_has_the_parameters_of_the_papers_network() -> None:
    assert count(ResnetGenerator()) == 11_378_179


def test_mobile_has_at_most_two_million_parameters() -> None:
    assert count(MobileGenerator(noise_channels=0)) == 1_108_656
    assert count(make_generator("mobile", noise_channels=128)) <= 2_000_000


@pytest.mark.parametrize("network", OWN)
@pytest.mark.parametrize("channels", [0, 4])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (37, 25), (9, 64)])
def test_a_generator_takes_pictures_of_any_size(network: str, channels: int, height: int, width: int) -> None:
    module = trained(make_generator(network, SMALL, channels))
    photo, noise = inputs(height, width, channels)
    picture = module(photo, noise).detach()
    assert picture.shape == photo.shape
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1


@pytest.mark.parametrize("network", OWN)
def test_a_batch_is_what_its_pictures_are_one_by_one(network: str) -> None:
    module = trained(make_generator(network, SMALL, 4))
    photo, noise = inputs(32, 24, 4)
    alone = torch.cat([module(photo[n : n + 1], noise[n : n + 1]) for n in range(2)])
    torch.testing.assert_close(module(photo, noise), alone)


@pytest.mark.parametrize("network", OWN)
def test_the_noise_changes_the_picture_and_is_left_out_without_channels(network: str) -> None:
    photo, noise = inputs(32, 24, 4)
    with_noise, without = trained(make_generator(network, SMALL, 4)), trained(make_generator(network, SMALL, 0))
    assert not torch.allclose(with_noise(photo, noise), with_noise(photo, -noise))
    assert torch.equal(without(photo, noise[:, :0]), without(photo))


@pytest.mark.parametrize("network", OWN)
def test_without_noise_it_does_what_it_did_where_the_noise_was_zero(network: str) -> None:
    noisy = trained(make_generator(network, SMALL, 4))
    if isinstance(noisy, MobileGenerator):
        nn.init.zeros_(noisy.noise.bias)  # what it adds everywhere is no noise, and is left out with it
    plain = make_generator(network, SMALL, 0).eval()
    plain.load_state_dict(noisy.weights_without_noise())
    photo, noise = inputs(40, 56, 4)
    torch.testing.assert_close(plain(photo), noisy(photo, torch.zeros_like(noise)))
    plain.load_state_dict(plain.weights_without_noise())  # of one that has none, too


def test_mobile_begins_as_the_identity() -> None:
    photo, noise = inputs(32, 40, 4)
    assert torch.equal(MobileGenerator(**SMALL, noise_channels=4).eval()(photo, noise), photo)


def test_enlarging_begins_as_repetition_and_can_draw_inside_a_cell() -> None:
    layer = Enlarge(4, 3, 8)
    layer.begin_as_repetition()
    x = torch.randn(1, 4, 2, 3)
    cells = layer(x).detach()
    assert torch.allclose(cells, F.interpolate(cells[..., ::8, ::8], scale_factor=8.0, mode="nearest"))
    nn.init.normal_(layer.pixels.weight)
    drawn = layer(torch.ones(1, 4, 2, 2)).detach()
    assert torch.equal(drawn[..., :8, :8], drawn[..., 8:, 8:])
    assert float(drawn[0, 0, :8, :8].std()) > 0.1


def test_mobile_limits_its_output_to_a_picture_only_where_nothing_is_learned() -> None:
    module = MobileGenerator(**SMALL, noise_channels=0)
    nn.init.constant_(module.last.bias[:PIXELS], 2.0)
    photo, _ = inputs(16, 16, 0)
    assert torch.equal(module.eval()(photo), torch.ones_like(photo))
    assert float(module.train()(photo).detach().min()) >= 2


def test_mobile_can_leave_out_the_photo() -> None:
    module = MobileGenerator(**SMALL, noise_channels=0).eval()
    with torch.no_grad():
        module.last.bias[PIXELS:] = torch.tensor([1.0, 0.5, 0.0, 0.0])  # of four pixels
        module.last.bias[:PIXELS] = 0.25
    photo = inputs(16, 24, 0)[0] / 2
    kept = torch.tensor([[0.0, 0.5], [1.0, 1.0]]).repeat(8, 12)
    torch.testing.assert_close(module(photo), photo * kept + 0.25)


def test_mobiles_tiles_are_parts_of_the_whole_picture() -> None:
    module = trained(MobileGenerator(width=4, blocks=2, noise_channels=4))
    margin = -(-module.context // 8) * 8
    photo, noise = inputs(32 + 2 * margin, 256, 4, batch=1)
    whole = module(photo, noise)
    top, rows = margin // 8, 32 // 8
    part = module(photo[:, :, : 2 * margin + 32], noise[:, :, : 2 * top + rows])
    torch.testing.assert_close(part[:, :, margin : margin + 32], whole[:, :, margin : margin + 32])
    left = module(photo[..., : margin + 64], noise[..., : top + 8])
    torch.testing.assert_close(left[..., :64], whole[..., :64], rtol=1e-4, atol=1e-6)


def test_what_lies_beyond_the_context_does_not_change_mobiles_picture() -> None:
    module = trained(MobileGenerator(width=4, blocks=2, noise_channels=4))
    photo, noise = inputs(8, 16 * module.context // 8 * 8, 4, batch=1)
    photo.requires_grad_(True)
    noise.requires_grad_(True)
    middle = photo.shape[-1] // 2
    module.train()(photo, noise)[..., middle].sum().backward()
    reached = photo.grad.abs().sum(dim=(0, 1, 2)).nonzero()  # type: ignore[union-attr]
    assert int((reached - middle).abs().max()) <= module.context
    cells = noise.grad.abs().sum(dim=(0, 1, 2)).nonzero()  # type: ignore[union-attr]
    assert int((cells * 8 - middle).abs().max()) <= module.context


def test_the_resnet_has_no_tiles() -> None:
    assert ResnetGenerator(**SMALL).context is None


@pytest.mark.parametrize("network", OWN)
@pytest.mark.parametrize(
    "wrong",
    [lambda p, n: (p, n[:, :3]), lambda p, n: (p, n[..., :-1]), lambda p, n: (p, None)],
)
def test_wrong_shapes_are_refused(network: str, wrong: Callable[..., tuple[Tensor, Tensor | None]]) -> None:
    photo, noise = inputs(32, 24, 4)
    with pytest.raises(PictureError):
        make_generator(network, SMALL, 4)(*wrong(photo, noise))


def test_what_is_no_batch_of_photos_is_refused() -> None:
    photo, noise = inputs(32, 24, 4)
    for wrong in (photo[:, :2], photo[0], photo[:0]):
        with pytest.raises(PictureError, match="takes photos"):
            check_inputs(wrong, noise, 4)


@pytest.mark.parametrize(
    ("network", "options", "channels", "message"),
    [
        ("unet", {}, 0, "network must be one of"),
        ("mobile", {"depth": 3}, 0, "has no option 'depth'"),
        ("mobile", {"width": 0}, 0, "width must be a whole number"),
        ("mobile", {"width": 129}, 0, "width must be a whole number between 1 and 128"),
        ("resnet9", {"blocks": 25}, 0, "blocks must be a whole number between 1 and 24"),
        ("resnet9", {"blocks": 1.5}, 0, "blocks must be a whole number"),
        ("resnet9", {"blocks": True}, 0, "blocks must be a whole number"),
        ("mobile", {}, -1, "noise_channels must be a whole number"),
    ],
)
def test_wrong_networks_are_refused(network: str, options: dict[str, object], channels: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_generator(network, options, channels)


def test_every_network_has_defaults() -> None:
    assert set(DEFAULTS) == set(NETWORKS)
