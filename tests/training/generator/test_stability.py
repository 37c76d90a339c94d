"""The loss on moved and noised photos."""

from __future__ import annotations

from collections.abc import Callable

import torch

from stylescore.training.generator.batches import Batch
from stylescore.training.generator.loop import train
from stylescore.training.generator.session import Session
from stylescore.training.generator.stability import GRAIN, REACH, disturb, instability

Make = Callable[..., Session]
Rngs = Callable[..., list[torch.Generator]]


def batch_of(photo: torch.Tensor) -> Batch:
    count = len(photo)
    noise = torch.randn(count, 4, photo.shape[-2] // 8, photo.shape[-1] // 8)
    return Batch(photo, noise, photo, ("",) * count, tuple(range(count)))


def test_photos_move_by_whole_pixels_in_all_directions_and_get_grain(rngs: Rngs) -> None:
    count = 60
    batch = batch_of(torch.linspace(0.2, 0.8, 64).expand(count, 3, 64, 64).contiguous())
    disturbed, shifts = disturb(batch, rngs(*range(count)))
    for photo, moved, shift in zip(batch.photo, disturbed.photo, shifts, strict=True):
        assert abs(float((moved - torch.roll(photo, shift, (-2, -1))).std()) - GRAIN) < 0.05 * GRAIN
    assert {abs(part) <= REACH for shift in shifts for part in shift} == {True}
    assert {min(shift) < 0 for shift in shifts} == {max(shift) > 0 for shift in shifts} == {True, False}
    assert torch.equal(disturbed.noise, batch.noise)
    assert disturbed.captions == batch.captions


def test_a_picture_that_moves_with_its_photo_costs_nothing_though_the_edges_differ(rngs: Rngs) -> None:
    pictures = torch.rand(4, 3, 72, 72, generator=torch.Generator().manual_seed(0))
    shifts = [(8, -8), (-8, 8), (3, 0), (0, 0)]
    moved = torch.stack([torch.roll(each, shift, (-2, -1)) for each, shift in zip(pictures, shifts, strict=True)])
    moved[..., :REACH] = moved[..., -REACH:, :] = 0
    assert torch.equal(instability(pictures, moved, shifts), torch.zeros(4))
    torch.testing.assert_close(instability(pictures, moved + 0.25, shifts), torch.full((4,), 0.25))
    assert bool((instability(pictures, pictures, shifts)[:3] > 0.2).all())


def test_it_joins_both_phases_and_is_not_computed_without_weight(generator_session: Make) -> None:
    parts = [set(step.parts) for step in train(generator_session(stability=1.0).trainer)]
    assert parts == [{"pixel", "perceptual", "stability"}] * 3 + [{"score", "spectrum", "fake", "stability"}] * 2
    calls = []
    for weight in (0.0, 1.0):
        trainer = generator_session(stability=weight).trainer
        painted: list[None] = []
        trainer.network.register_forward_hook(lambda *_, painted=painted: painted.append(None))
        assert ("stability" in next(train(trainer)).parts) == (weight > 0)
        calls.append(len(painted))
    assert calls == [1, 2]


def test_with_much_weight_pictures_move_with_their_photos(generator_session: Make) -> None:
    last = []
    for weight in (0.0, 20.0):
        session = generator_session(
            stability=weight,
            regression={"steps": 60, "batch": 4, "learning_rate": 1e-2},
            matching={"steps": 0},
            width=8,
        )
        list(train(session.trainer))
        trainer = session.trainer
        rng = [torch.Generator().manual_seed(seed) for seed in range(4)]
        samples = [trainer.data.pairs.draw(0, torch.Generator().manual_seed(seed)) for seed in range(4)]
        photo, noise = (torch.stack([getattr(each, name) for each in samples]) for name in ("photo", "noise"))
        whole = Batch(photo, noise, photo, ("",) * 4, (0, 1, 2, 3))
        disturbed, shifts = disturb(whole, rng)
        with torch.no_grad():
            pictures = [trainer.average(each.photo, each.noise) for each in (whole, disturbed)]
        last.append(float(instability(*pictures, shifts).mean()))
    assert last[1] < 0.8 * last[0]
