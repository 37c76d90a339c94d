"""Batched scores equal separate ones, from as few calls as there are networks, whoever needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from stylescore.diffusion.adapters import Adapters, TrainedAdapter
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.batching import BatchedScores, PromptedScore
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families import sd
from stylescore.diffusion.predictions import VariancePreserving
from stylescore.method.objective import Objective
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import Predictions, ScoreName, contrast, guide, score_latent
from stylescore.method.timesteps import Grid, Uniform
from stylescore.method.types import Draw, Latent, Map

Rngs = Callable[..., list[torch.Generator]]
NAMES: tuple[ScoreName, ...] = ("edit", "style", "source", "fake")
TARGETS = ("to_q", "to_v", "conv1", "to_out.0")


def backbone_on(unet: Any, schedule: NoiseSchedule) -> Backbone:
    return Backbone(unet, Adapters.of(unet), VariancePreserving(schedule), sd.call)


@pytest.fixture
def backbone(tiny_unet: Callable[[], Any], tiny_style: Callable[[Any], Any], schedule: NoiseSchedule) -> Backbone:
    unet = tiny_unet()
    deltas = tiny_style(unet)
    made = backbone_on(unet, schedule)
    made.adapters.add_style(deltas, 0.8)
    return made


def fake_on(backbone: Backbone, rngs: Rngs) -> TrainedAdapter:
    """Return a fake adapter whose effect is not zero."""
    fake, rng = backbone.adapters.new_fake(TARGETS, 4, 8.0, rngs(1, 2)), torch.Generator().manual_seed(0)
    for parameter in fake.parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return fake


@pytest.fixture
def draw(units: dict[str, Tensor], schedule: NoiseSchedule) -> Draw:
    z = units["unet/x"]
    return schedule.draw(z, z.flip(0), t=torch.tensor([101, 399]), eps=z.flip(2))


def scores_of(
    base: Backbone, style: Backbone, fake: TrainedAdapter, units: dict[str, Tensor], scale: float | None
) -> dict[ScoreName, PromptedScore]:
    text = units["unet/text"]
    null = Conditioning(0 * text)
    combine = None if scale is None else partial(guide, s=scale)
    return {
        "style": PromptedScore(style, Conditioning(text), null, combine, style=True),
        "fake": PromptedScore(base, Conditioning(text.flip(0)), null, combine, fake=fake),
        "edit": PromptedScore(base, Conditioning(2 * text), null, contrast),
        "source": PromptedScore(base, Conditioning(-text), null, combine),
    }


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 4.5])
def test_batched_scores_equal_separate_ones(
    backbone: Backbone, units: dict[str, Tensor], draw: Draw, rngs: Rngs, scale: float | None
) -> None:
    scores = scores_of(backbone, backbone, fake_on(backbone, rngs), units, scale)
    found = BatchedScores(scores).predict(draw, NAMES)
    separate = BatchedScores(scores, batched=False).predict(draw, NAMES)
    assert set(found) == set(separate) == set(NAMES)
    rounding = 1e-5 if scale is None else 1e-4  # guidance enlarges it, more on some processors
    for name in NAMES:
        assert torch.allclose(found[name], separate[name], rtol=1e-4, atol=rounding), name
        assert torch.equal(separate[name], scores[name](score_latent(draw, name), draw.t)), name
    assert not torch.allclose(found["style"], found["fake"], atol=1e-2)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the rows of every call of a network, as they happen."""
    seen: list[int] = []
    call = Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, *given: (seen.append(len(given[1])), call(self, *given))[1])
    return seen


@torch.no_grad()
def test_a_style_on_a_base_of_its_own_takes_a_call_of_its_own(
    backbone: Backbone,
    tiny_unet: Callable[[], Any],
    units: dict[str, Tensor],
    draw: Draw,
    schedule: NoiseSchedule,
    rngs: Rngs,
    rows: list[int],
) -> None:
    other = replace(backbone_on(tiny_unet(), schedule), counter=backbone.counter)
    scores = scores_of(backbone, other, fake_on(backbone, rngs), units, 4.5)
    separate = BatchedScores(scores, batched=False).predict(draw, NAMES)
    assert rows == [4, 4, 4, 4]
    rows.clear()
    found = BatchedScores(scores).predict(draw, NAMES)
    assert sorted(rows) == [4, 12]
    for name in NAMES:
        assert torch.allclose(found[name], separate[name], rtol=1e-4, atol=1e-5), name


@torch.no_grad()
def test_samples_are_counted_as_if_separate(
    backbone: Backbone, units: dict[str, Tensor], draw: Draw, rngs: Rngs
) -> None:
    BatchedScores(scores_of(backbone, backbone, fake_on(backbone, rngs), units, None)).predict(draw, NAMES)
    assert backbone.counter.snapshot() == (2 + 2 + 4 + 2, 0)


@dataclass(frozen=True)
class TowardsSource:
    """A direction the package does not have: away from the source score."""

    needs: ClassVar[Collection[ScoreName]] = ("style", "source")

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        return eps["style"] - eps["source"]


@dataclass(frozen=True)
class BrightRelevance:
    """A map the package does not have: where the edit contrast is positive."""

    needs: ClassVar[Collection[ScoreName]] = ("edit",)

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        return (eps["edit"].mean(dim=1, keepdim=True) > 0).float()


@pytest.mark.parametrize(("known", "expected"), [((), [2 * 5]), (("style",), [2 * 3]), (("source", "edit"), [2 * 2])])
def test_parts_of_ones_own_are_batched_and_what_is_known_is_not_predicted_again(
    backbone: Backbone,
    units: dict[str, Tensor],
    draw: Draw,
    schedule: NoiseSchedule,
    rngs: Rngs,
    rows: list[int],
    known: tuple[ScoreName, ...],
    expected: list[int],
) -> None:
    found = scores_of(backbone, backbone, fake_on(backbone, rngs), units, 4.5)
    scores = BatchedScores({**found, "source": replace(found["source"], combine=None)})
    objective = Objective(
        schedule=schedule,
        timesteps=Uniform(Grid(t_min=21, t_max=499)),
        direction=TowardsSource(),
        relevance=BrightRelevance(),
    )
    assert objective.needs == ("style", "edit", "source")
    with torch.no_grad():
        given = scores.predict(draw, known)
        rows.clear()
        step = objective.at(draw, draw.z, scores, known=given)
        assert rows == expected
        eps = {name: scores[name](score_latent(draw, name), draw.t) for name in objective.needs}
    wanted = (eps["style"] - eps["source"]) * (eps["edit"].mean(dim=1, keepdim=True) > 0)
    assert torch.allclose(step.gradient, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_two_fake_adapters_on_one_network_know_nothing_of_one_another(
    backbone: Backbone, units: dict[str, Tensor], draw: Draw, rngs: Rngs
) -> None:
    first = PromptedScore(backbone, Conditioning(units["unet/text"]), Conditioning(0 * units["unet/text"]))
    before = replace(first, fake=fake_on(backbone, rngs))
    eps = before(draw.z_t, draw.t)
    other = backbone.adapters.new_fake(("to_k",), 2, 4.0, rngs(7, 8, 9))
    for parameter in other.parameters:
        parameter.data.add_(0.3)
    assert torch.equal(before(draw.z_t, draw.t), eps)
    assert not torch.allclose(replace(first, fake=other)(draw.z_t, draw.t), eps, atol=1e-2)
    assert not torch.allclose(first(draw.z_t, draw.t), eps, atol=1e-2)
