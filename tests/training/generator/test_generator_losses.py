"""The losses of both phases, on the tiny base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from stylescore.training.generator.batches import Batch
from stylescore.training.generator.loop import held_out_batch
from stylescore.training.generator.losses import texture_distance
from stylescore.training.generator.measure import measure_matching
from stylescore.training.generator.networks import LatentPainting, PixelPainting, encode
from stylescore.training.generator.session import Session

Make = Callable[..., Session]
Rngs = Callable[..., list[torch.Generator]]


def together(session: Session) -> Batch:
    """Return the held-out pairs as one batch."""
    parts = [held_out_batch(session.trainer, index) for index in range(len(session.trainer.data.held_out))]
    joined = (torch.cat([getattr(part, name) for part in parts]) for name in ("photo", "noise", "target"))
    photo, noise, target = joined
    captions = tuple(caption for part in parts for caption in part.captions)
    return Batch(photo, noise, target, captions, tuple(range(len(parts))))


def painted(session: Session, pictures: torch.Tensor) -> PixelPainting:
    return PixelPainting(pictures, session.trainer.matching.networks)


@pytest.fixture
def session(generator_session: Make) -> Session:
    return generator_session(pairs={"count": 8})


def test_a_picture_that_is_the_pairs_costs_nothing(session: Session, rngs: Rngs) -> None:
    batch, regression = together(session), session.trainer.regression
    assert len(batch.photo) == 2
    parts = regression(painted(session, batch.target), batch, rngs(1, 2))
    assert parts.keys() == {"pixel", "perceptual"}
    assert all(torch.equal(part, torch.zeros(2)) for part in parts.values())
    parts = regression(painted(session, batch.target + 0.1), batch, rngs(1, 2))
    torch.testing.assert_close(parts["pixel"], torch.full((2,), 0.1))
    assert bool((parts["perceptual"] > 0).all())
    torch.testing.assert_close(regression.loss(parts), parts["pixel"] + 0.1 * parts["perceptual"])


def test_without_weight_the_perceptual_distance_is_not_computed(session: Session, rngs: Rngs) -> None:
    batch, counter = together(session), session.trainer.matching.networks.base.counter
    regression = replace(session.trainer.regression, config=replace(session.trainer.config.regression, perceptual=0.0))
    before = counter.snapshot()
    parts = regression(painted(session, batch.photo), batch, rngs(1, 2))
    assert counter.snapshot() == before
    assert torch.equal(parts["perceptual"], torch.zeros(2))


def test_textures_differ_by_what_they_are_and_not_by_where_it_is() -> None:
    """Features twice as large have a Gram matrix four times as large: |4 G - G| / (4 |G| + |G|) is 0.6."""
    maps = torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1))
    moved = [maps.roll((2, 1), dims=(2, 3)), tokens.flip(1)]
    torch.testing.assert_close(texture_distance([maps, tokens], moved), torch.zeros(2), atol=1e-6, rtol=0)
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(texture_distance([2 * centred], [centred]), torch.full((2,), 0.6))
    other = maps.flip(1)
    distance = texture_distance([maps], [other])
    assert bool((distance > 0.1).all())
    offset = torch.tensor([0.0, 100, -50, 3, 1])[:, None, None]
    torch.testing.assert_close(texture_distance([7 * maps + offset], [7 * other + offset]), distance, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(1, 5, 4, 4), (1, 5, 1, 1)])
def test_an_even_picture_has_a_texture_too(shape: tuple[int, ...]) -> None:
    even = torch.full(shape, 0.3)
    drawn = (even + torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    assert texture_distance([even], [even]).tolist() == [0]
    distance = texture_distance([drawn], [even])
    assert distance.tolist() == pytest.approx([1])
    distance.sum().backward()
    assert drawn.grad is not None
    assert bool(drawn.grad.isfinite().all())


def test_textures_are_compared_at_the_encoders_levels_too_unless_pixels_have_no_weight(
    session: Session, rngs: Rngs
) -> None:
    batch, networks = together(session), session.trainer.matching.networks
    config = replace(session.trainer.config.regression, pixel=1.0, perceptual=0.0, texture=2.0)
    regression = replace(session.trainer.regression, config=config)
    assert regression(painted(session, batch.target), batch, rngs(1, 2))["texture"].tolist() == [0, 0]
    pictures = batch.photo.clone().requires_grad_()
    parts = regression(painting := painted(session, pictures), batch, rngs(1, 2))
    assert parts.keys() == {"pixel", "perceptual", "texture"}
    torch.testing.assert_close(regression.loss(parts), parts["pixel"] + 2 * parts["texture"])
    parts["texture"].sum().backward()
    assert pictures.grad is not None
    assert bool((pictures.grad.flatten(1).abs().sum(1) > 0).all())
    assert [level.shape[-1] * 2**n for n, level in enumerate(painting.levels)] == [64] * len(painting.levels)

    def refuse(latent: torch.Tensor) -> torch.Tensor:
        raise AssertionError("latents were decoded")

    latents = LatentPainting(painting.latent.detach(), refuse, networks.codec)
    coarse = replace(regression, config=replace(config, pixel=0.0))
    of_latents = coarse(latents, batch, rngs(1, 2))["texture"]
    torch.testing.assert_close(of_latents, coarse(painting, batch, rngs(1, 2))["texture"])
    assert not torch.allclose(of_latents, parts["texture"])


def test_a_step_is_that_of_the_objective_on_the_pictures_latents(session: Session, rngs: Rngs) -> None:
    batch, matching = together(session), session.trainer.matching
    pictures = batch.target.clone().requires_grad_()
    step, z = matching.step(painted(session, pictures), batch, 0.25, rngs(5, 6))
    z_source = encode(matching.networks, batch.photo)
    expected = matching.objective(z, z_source, matching.scores(batch.captions), progress=0.25, rng=rngs(5, 6))
    torch.testing.assert_close(step.gradient, expected.gradient)
    assert torch.equal(step.t, expected.t)
    torch.testing.assert_close(z, encode(matching.networks, batch.target))
    step.loss.sum().backward()
    assert pictures.grad is not None
    assert bool((pictures.grad.flatten(1).abs().sum(1) > 0).all())


def test_the_margin_is_the_mean_logarithm_of_the_two_errors(session: Session, rngs: Rngs) -> None:
    batch, matching = together(session), session.trainer.matching
    z = encode(matching.networks, batch.target)
    margin = matching.style_margin(z, batch.captions, [201, 601], rngs(7, 8))
    scores, schedule, found = matching.scores(batch.captions), matching.objective.schedule, []
    rng = rngs(7, 8)
    for timestep in (201, 601):
        eps = torch.stack([torch.randn(z.shape[1:], generator=generator) for generator in rng])
        t = torch.full((2,), timestep)
        z_t = schedule.add_noise(z, eps, t)
        style = replace(scores["style"], combine=None)(z_t, t)
        base = replace(scores["fake"], combine=None, fake=None)(z_t, t)
        found.append((((base - eps) ** 2).mean((1, 2, 3)) / ((style - eps) ** 2).mean((1, 2, 3))).log())
    torch.testing.assert_close(margin, torch.stack(found).mean(0), rtol=1e-4, atol=1e-5)


def test_the_second_measure_weighs_content_against_the_margin(session: Session, rngs: Rngs) -> None:
    batch, matching, regression = together(session), session.trainer.matching, session.trainer.regression
    z, z_source = (encode(matching.networks, part) for part in (batch.target, batch.photo))
    margin = matching.style_margin(z, batch.captions, [501, 651, 801], generators := rngs(7, 8))
    content = regression.distance(z, z_source, generators)
    measured = measure_matching(matching, regression, batch.target, batch, rngs(7, 8))
    assert float(measured) == pytest.approx(float((0.25 * content - margin).sum()), rel=1e-4)


def test_the_fake_score_sees_fresh_noise_and_many_timesteps(session: Session) -> None:
    batch, matching = together(session), session.trainer.matching
    z = encode(matching.networks, batch.target)
    drawn: list[Any] = []
    for seed in range(20):
        rng = [torch.Generator().manual_seed(2 * seed + place) for place in (0, 1)]
        loss, t = matching.fake_loss(z, batch.captions, 0.9, rng)
        assert loss.shape == (2,)
        drawn += t.tolist()
    assert max(drawn) > 800
    assert len(set(drawn)) > 30
