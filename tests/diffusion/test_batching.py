"""Scores asked together answer as they answer alone, from as few calls as there are networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore.diffusion.adapters import Adapters
from stylescore.diffusion.backbone import Backbone, Prompted
from stylescore.diffusion.batching import Ask, Joint
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families import sd
from stylescore.diffusion.predictions import VariancePreserving
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import Known, ScoreName, Scores, contrast, guide
from stylescore.method.types import Draw

Rngs = Callable[..., list[torch.Generator]]
NAMES: tuple[ScoreName, ...] = ("edit", "style", "source", "fake")
TARGETS = ("to_q", "to_v", "conv1", "to_out.0")


def backbone_on(unet: Any, schedule: NoiseSchedule) -> Backbone:
    return Backbone(unet, Adapters.of(unet), VariancePreserving(schedule), sd.call)


@pytest.fixture
def backbone(
    tiny_unet: Callable[[], Any], tiny_style: Callable[[Any], Any], schedule: NoiseSchedule, rngs: Rngs
) -> Backbone:
    """Return a network on which style and fake branch both have something to say."""
    unet = tiny_unet()
    deltas = tiny_style(unet)
    made = backbone_on(unet, schedule)
    made.adapters.add_style(deltas, 0.8)
    rng = torch.Generator().manual_seed(0)
    for parameter in made.adapters.add_fake(TARGETS, 4, 8.0, rngs(1, 2)):
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return made


@pytest.fixture
def draw(units: dict[str, Tensor], schedule: NoiseSchedule) -> Draw:
    z = units["unet/x"]
    return schedule.draw(z, z.flip(0), t=torch.tensor([101, 399]), eps=z.flip(2))


def asks_of(base: Backbone, style: Backbone, units: dict[str, Tensor], scale: float | None) -> dict[ScoreName, Ask]:
    words = units["unet/text"]
    null = Conditioning(0 * words)
    finish = None if scale is None else partial(guide, s=scale)
    return {
        "style": Ask(Prompted(style, Conditioning(words), null, style=True), finish),
        "fake": Ask(Prompted(base, Conditioning(words.flip(0)), null, fake=True), finish),
        "edit": Ask(Prompted(base, Conditioning(2 * words), null), contrast),
        "source": Ask(Prompted(base, Conditioning(-words), null), finish),
    }


def alone(asks: dict[ScoreName, Ask], draw: Draw) -> dict[ScoreName, Tensor]:
    there = {"style": draw.z_t, "fake": draw.z_t, "edit": draw.z_source_t, "source": draw.z_source_t}
    return {name: ask(there[name], draw.t) for name, ask in asks.items()}


@torch.no_grad()
@pytest.mark.parametrize("scale", [None, 4.5])
def test_together_they_answer_as_alone(
    backbone: Backbone, units: dict[str, Tensor], draw: Draw, scale: float | None
) -> None:
    asks = asks_of(backbone, backbone, units, scale)
    found, expected = Joint(asks)(draw, NAMES), alone(asks, draw)
    assert set(found) == set(NAMES)
    rounding = 1e-5 if scale is None else 1e-4  # guidance enlarges it, more on some processors
    for name in NAMES:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=rounding), name
    assert not torch.allclose(found["style"], found["fake"], atol=1e-2)


@torch.no_grad()
def test_a_style_on_a_base_of_its_own_takes_a_call_of_its_own(
    backbone: Backbone,
    tiny_unet: Callable[[], Any],
    units: dict[str, Tensor],
    draw: Draw,
    schedule: NoiseSchedule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = replace(backbone_on(tiny_unet(), schedule), counter=backbone.counter)
    asks = asks_of(backbone, other, units, 4.5)
    expected = alone(asks, draw)
    rows: list[int] = []
    call = Backbone.__call__
    monkeypatch.setattr(Backbone, "__call__", lambda self, *given: (rows.append(len(given[1])), call(self, *given))[1])
    found = Joint(asks)(draw, NAMES)
    assert sorted(rows) == [4, 12]
    for name in NAMES:
        assert torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5), name


@torch.no_grad()
def test_samples_are_counted_as_before(backbone: Backbone, units: dict[str, Tensor], draw: Draw) -> None:
    asks = asks_of(backbone, backbone, units, None)
    Joint(asks)(draw, NAMES)
    assert backbone.counter.snapshot() == (2 + 2 + 4 + 2, 0)


def test_what_is_known_is_not_asked_again_and_one_alone_is_not_asked_ahead(draw: Draw) -> None:
    asked: list[list[str]] = []

    def together(draw: Draw, names: Any) -> Any:
        asked.append(list(names))
        return {name: draw.eps for name in names}

    def never(z_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("this score must not be asked")

    scores = Scores(style=never, fake=Known(draw.z_t, draw.z, never), edit=never, source=never, together=together)
    found = scores.ahead(draw, ("style", "fake", "edit"))
    assert asked == [["style", "edit"]]
    assert found.style(draw.z_t, draw.t) is draw.eps
    assert found.fake(draw.z_t, draw.t) is draw.z
    with pytest.raises(AssertionError, match="must not be asked"):
        found.style(draw.z_source_t, draw.t)
    assert scores.ahead(draw, ("style", "fake")) is scores
    assert replace(scores, together=None).ahead(draw, ("style", "edit")).style is never
