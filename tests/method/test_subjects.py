"""What is fitted: a latent, or a network whose outputs pass a differentiable encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.method.fit import Fitting, fit
from stylescore.method.objective import sds
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import SeparateScores
from stylescore.method.subjects import LatentSubject, NetworkSubject
from stylescore.method.timesteps import Grid, Uniform

Rngs = Callable[..., list[torch.Generator]]


def photos(count: int = 5, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def halve(pictures: Tensor) -> Tensor:
    """Encode by averaging 2 x 2 pixels."""
    return nn.functional.avg_pool2d(pictures, 2)


def network_subject() -> NetworkSubject:
    torch.manual_seed(1)
    return NetworkSubject(nn.Conv2d(3, 3, 1), photos(), halve)


def test_a_latent_starts_at_its_source_and_leaves_it_alone() -> None:
    source = photos().double()
    subject = LatentSubject.at(source)
    z, z_source = subject.draw([])
    assert z.dtype == z_source.dtype == torch.float32
    assert torch.equal(z, z_source)
    with torch.no_grad():
        z.add_(1)
    assert torch.equal(subject.z_source, source.float())


def test_a_network_stylizes_the_photo_that_the_generator_draws(rngs: Rngs) -> None:
    subject = network_subject()
    z, z_source = subject.draw(rngs(3, 4))
    chosen = [int(torch.randint(5, (), generator=generator)) for generator in rngs(3, 4)]
    assert torch.equal(z_source, halve(subject.photos[chosen]))
    assert torch.allclose(z, halve(subject.network(subject.photos[chosen])))
    assert not z_source.requires_grad
    assert subject.render().shape == (5, 3, 8, 8)


def test_the_loop_fits_a_network_as_it_fits_a_latent(schedule: NoiseSchedule, rngs: Rngs) -> None:
    """With the exact score of one clean latent as the style, the network learns to output it for every photo."""
    subject, target = network_subject(), 0.3
    optimiser = torch.optim.Adam(subject.parameters())

    def style(z_t: Tensor, t: Tensor) -> Tensor:
        return (z_t - schedule.alpha(t) * target) / schedule.sigma(t)

    fitting = Fitting(
        subject=subject,
        objective=sds(schedule, Uniform(Grid(t_min=21, t_max=979))),
        scores=SeparateScores({"style": style}),
        optimiser=optimiser,
        learning_rate=lambda i: 0.05,
        fake=None,
        rng=rngs(1, 2, 3),
        iterations=150,
    )
    before = (subject.render() - target).abs().mean()
    assert len(list(fit(fitting))) == 150
    assert (subject.render() - target).abs().mean() < 0.1 * before


def test_the_differentiable_encoder_is_the_encoder_with_a_gradient(tiny_models: Callable[..., Any]) -> None:
    codec = tiny_models().codec
    pictures = photos(2, 32).requires_grad_()
    z = codec.encode_differentiably(pictures)
    assert torch.allclose(z, codec.encode(pictures.detach(), None), atol=1e-5)
    (gradient,) = torch.autograd.grad(z[0].sum(), pictures)
    assert gradient[0].abs().max() > 0
    assert not gradient[1].any()


@pytest.mark.parametrize("pixel", [(0, 5, 7), (2, 20, 11)])
def test_its_gradient_is_that_of_a_finite_difference(tiny_models: Callable[..., Any], pixel: tuple[int, ...]) -> None:
    codec = tiny_models().codec
    codec.vae.double()
    try:
        picture = photos(1, 32).double().requires_grad_()
        weight = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2))

        def output(x: Tensor) -> Tensor:
            return (codec.scale_latent(codec.vae.encode(x).latent_dist.mean) * weight).sum()

        loss = (codec.encode_differentiably(picture) * weight).sum()
        (gradient,) = torch.autograd.grad(loss, picture)
        step = torch.zeros_like(picture)
        step[(0, *pixel)] = 1e-5
        with torch.no_grad():
            expected = (output(picture + step) - output(picture - step)) / 2e-5
        assert gradient[(0, *pixel)].item() == pytest.approx(expected.item(), rel=1e-3)
    finally:
        codec.vae.float()
