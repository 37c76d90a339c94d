"""The critic of a generator's regression."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stylescore.method.types import Latent
from stylescore.training.generator.critic import PENALTY, Critic, adversarial_loss, critic_loss, to_levels
from stylescore.training.generator.loop import held_out_batch, train
from stylescore.training.generator.session import Session

Make = Callable[..., Session]
Rngs = Callable[..., list[torch.Generator]]


class Linear(Critic):
    """A critic whose logits are a weight times the sum over the channels."""

    def __init__(self, weights: list[float]) -> None:
        nn.Module.__init__(self)
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        return [w * level.sum(dim=1, keepdim=True) for w, level in zip(self.weights, levels, strict=True)]


def levels(seed: int, count: int = 2) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 4, 8, 8, generator=rng), torch.randn(count, 6, 4, 4, generator=rng)]


def test_features_are_scaled_and_tokens_become_maps() -> None:
    latent = torch.randn(2, 4, 8, 8)
    z, maps, tokens = to_levels(latent, [torch.randn(2, 6, 4, 4), 5 * torch.randn(2, 9, 3)])
    assert torch.equal(z, latent)
    torch.testing.assert_close(maps.square().mean(dim=1), torch.ones(2, 4, 4))
    assert tokens.shape == (2, 3, 9, 1)
    torch.testing.assert_close(tokens.square().mean(dim=1), torch.ones(2, 9, 1))


def test_what_cannot_be_told_apart_costs_the_logarithm_of_two() -> None:
    critic, same = Critic([4, 6]), levels(1)
    torch.testing.assert_close(adversarial_loss(critic, same, same), torch.full((2,), math.log(2)))


def test_both_losses_are_those_of_the_formula_for_a_linear_critic() -> None:
    critic, ours, theirs = Linear([0.3, -0.2]), levels(1), levels(2)
    gaps = [w * (b - a).sum(dim=1) for w, a, b in zip((0.3, -0.2), ours, theirs, strict=True)]
    wanted = torch.stack([(1 + gap.exp()).log().mean(dim=(1, 2)) for gap in gaps]).mean(dim=0)
    torch.testing.assert_close(adversarial_loss(critic, ours, theirs), wanted)
    other = torch.stack([(1 + (-gap).exp()).log().mean(dim=(1, 2)) for gap in gaps]).mean(dim=0)
    penalty = (4 * 4 * 0.3**2 + 6 * 6 * 0.2**2) / 2
    torch.testing.assert_close(critic_loss(critic, ours, theirs), other + PENALTY * 2 * penalty)


def test_the_generators_loss_moves_its_pictures_alone_and_the_critics_moves_the_critic_alone() -> None:
    critic = Critic([4, 6])
    ours, theirs = ([level.requires_grad_() for level in levels(seed)] for seed in (1, 2))
    adversarial_loss(critic, ours, theirs).sum().backward()
    assert all(level.grad is not None and bool(level.grad.any()) for level in ours)
    assert all(level.grad is None for level in theirs)
    for level in ours:
        level.grad = None
    critic.zero_grad()
    critic_loss(critic, ours, theirs).sum().backward()
    assert all(level.grad is None for level in (*ours, *theirs))
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_a_critic_learns_to_tell_blurred_pictures() -> None:
    torch.manual_seed(0)
    critic = Critic([4, 6])
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.99))

    def blurred(sharp: list[Latent]) -> list[Latent]:
        return [nn.functional.avg_pool2d(level, 3, 1, 1) for level in sharp]

    for step in range(60):
        sharp = levels(step, 8)
        optimiser.zero_grad()
        critic_loss(critic, blurred(sharp), sharp).mean().backward()
        optimiser.step()
    sharp = levels(1000, 8)
    with torch.no_grad():
        assert float(adversarial_loss(critic, blurred(sharp), sharp).mean()) > 1.0
        assert float(adversarial_loss(critic, sharp, blurred(sharp)).mean()) < 0.4


ADVERSARIAL = {"regression": {"adversarial": 0.5}}


def test_the_critic_is_trained_in_the_first_phase_alone(generator_session: Make) -> None:
    trainer = generator_session(**ADVERSARIAL, matching={"regression": 0.5}).trainer
    critic = trainer.regression.critic
    assert critic is not None
    steps = train(trainer)
    before = [parameter.detach().clone() for parameter in critic.parameters()]
    first = [next(steps) for _ in range(3)]
    assert [set(step.parts) for step in first] == [{"pixel", "perceptual", "adversarial", "critic"}] * 3
    middle = [parameter.detach().clone() for parameter in critic.parameters()]
    assert all(not torch.equal(old, new) for old, new in zip(before, middle, strict=True))
    for step in steps:
        assert set(step.parts) == {"score", "spectrum", "regression", "fake"}
    assert all(torch.equal(old, new) for old, new in zip(middle, critic.parameters(), strict=True))


def test_every_process_makes_the_same_critic(generator_session: Make) -> None:
    first, second = (generator_session(**ADVERSARIAL).trainer.regression.critic for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_measure_is_without_it_and_chooses_no_weights(generator_session: Make) -> None:
    session, plain = generator_session(**ADVERSARIAL, measure_every=1, patience=1), generator_session(measure_every=1)
    ours, theirs = (list(train(each.trainer))[:3] for each in (session, plain))
    assert [step.best for step in ours] == [None] * 3
    assert [step.phase for step in ours] == ["regression"] * 3
    assert all(step.measure is not None for step in ours)
    assert ours[0].measure == pytest.approx(theirs[0].measure, rel=0.2)


def test_a_critics_loss_is_that_of_the_levels_it_sees(generator_session: Make, rngs: Rngs) -> None:
    trainer = generator_session(**ADVERSARIAL).trainer
    regression, batch = trainer.regression, held_out_batch(trainer, 0)
    assert regression.critic is not None
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    found = regression.critic_loss(z, batch, rngs(4))
    eps = torch.randn(4, 8, 8, generator=rngs(4)[0])[None]
    with torch.no_grad():
        target = regression.networks.codec.encode_differentiably(batch.target * 2 - 1)
        t = torch.tensor([61])
        ours, theirs = (to_levels(x, regression.features.features(x, eps, t)) for x in (z, target))
    torch.testing.assert_close(found, critic_loss(regression.critic, ours, theirs))
