from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.assembly.networks import compile_network
from stylescore.diffusion.adapters import PLAIN, Adapters, Route, TrainedAdapter
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.batching import PromptedScore
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.families import sd
from stylescore.diffusion.predictions import VariancePreserving
from stylescore.method.schedule import NoiseSchedule

Rngs = Callable[..., list[torch.Generator]]
Text = tuple[Conditioning, Conditioning]
QV = ("to_q", "to_v")


@pytest.fixture
def backbone(tiny_unet: Callable[[], Any], tiny_style: Callable[[Any], Any], schedule: NoiseSchedule) -> Backbone:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 0.8)
    return Backbone(unet, adapters, VariancePreserving(schedule), sd.call)


@pytest.fixture
def inputs(units: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return units["unet/x"], units["unet/t"].long()


@pytest.fixture
def text(units: dict[str, Tensor]) -> Text:
    """Return two prompts and, for each, another text that stands for the empty prompt."""
    return Conditioning(units["unet/text"]), Conditioning(units["unet/text"].flip(0))


def fake_on(backbone: Backbone, rng: list[torch.Generator]) -> TrainedAdapter:
    """Return a fake adapter whose effect is not zero."""
    fake, generator = backbone.adapters.new_fake(QV, 4, 8.0, rng), torch.Generator().manual_seed(0)
    for parameter in fake.parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return fake


def difference(eps_c: Tensor, eps_u: Tensor) -> Tensor:
    return eps_c - 2 * eps_u


def test_a_prediction_equals_the_recording(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], units: dict[str, Tensor]
) -> None:
    with torch.no_grad():
        plain = backbone(*inputs, Conditioning(units["unet/text"]), PLAIN)
        styled = backbone(*inputs, Conditioning(units["unet/text"]), Route(style=True))
    assert torch.allclose(plain, units["unet/base"], atol=2e-4)
    assert torch.allclose(styled, units["unet/base_plus_style_lora"], atol=2e-4)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_other_predictions_are_converted(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, kind: Any
) -> None:
    other = Backbone(backbone.network, backbone.adapters, VariancePreserving(backbone.schedule, kind), backbone.call)
    x, t = inputs
    with torch.no_grad():
        output, found = (b(x, t, text[0], PLAIN) for b in (backbone, other))
    assert torch.allclose(found, backbone.schedule.to_eps(output, kind, x, t), atol=1e-5)
    assert not torch.allclose(found, output, atol=0.1)


@pytest.mark.parametrize("score", ["plain", "style", "fake"])
def test_a_combined_score_is_made_of_both_predictions(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs, score: str
) -> None:
    fake = fake_on(backbone, rngs(1, 2))
    flags = {"style": score == "style", "fake": fake if score == "fake" else None}
    with torch.no_grad():
        both = PromptedScore(backbone, *text, difference, **flags)(*inputs)
        alone = PromptedScore(backbone, *text, **flags)(*inputs)
        unconditional = PromptedScore(backbone, text[1], text[0], **flags)(*inputs)
    assert torch.allclose(both, alone - 2 * unconditional, atol=3e-5)
    assert not torch.allclose(alone, unconditional, atol=1e-3)


def test_the_three_scores_differ(backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs) -> None:
    adapter = fake_on(backbone, rngs(1, 2))
    with torch.no_grad():
        real, style, fake = (
            PromptedScore(backbone, *text, **flags)(*inputs) for flags in ({}, {"style": True}, {"fake": adapter})
        )
    for a, b in ((real, style), (style, fake), (real, fake)):
        assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("with_fake", [False, True])
def test_a_batch_equals_one_by_one(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs, with_fake: bool
) -> None:
    fake = fake_on(backbone, rngs(1, 2))
    x, t = inputs
    with torch.no_grad():
        batch = PromptedScore(backbone, *text, difference, fake=fake if with_fake else None)(x, t)
        for n in range(2):
            one, alone = slice(n, n + 1), backbone.adapters.new_fake(QV, 4, 8.0, rngs(3))
            for p, value in zip(alone.parameters, fake.parameters, strict=True):
                p.data.copy_(value[one])
            score = PromptedScore(backbone, text[0][one], text[1][one], difference, fake=alone if with_fake else None)
            assert torch.allclose(batch[one], score(x[one], t[one]), atol=3e-5)


def test_the_switch_is_plain_again_after_a_call_that_fails(backbone: Backbone, inputs: tuple[Tensor, Tensor]) -> None:
    x, t = inputs
    with pytest.raises(RuntimeError):
        backbone(x, t, Conditioning(torch.zeros(2, 77, 5)), Route(style=True))
    assert backbone.adapters.switch.route is PLAIN


def test_samples_are_counted_apart_by_whether_they_are_differentiated(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text
) -> None:
    with torch.no_grad():
        PromptedScore(backbone, *text, difference)(*inputs)
    PromptedScore(backbone, *text)(*inputs)
    assert backbone.counter.snapshot() == (4, 2)


def test_a_half_precision_network_predicts_in_float32(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text
) -> None:
    x, t = inputs
    with torch.no_grad():
        exact = PromptedScore(backbone, *text)(x, t)
        backbone.network.to(torch.bfloat16)
        rounded = PromptedScore(backbone, *text)(x, t)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, atol=0.1 * exact.abs().max().item())


class Reusing(nn.Module):
    """Writes every output into the same memory, as a network replayed from a CUDA graph does."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.output = torch.zeros(1, 4, 8, 8)

    def forward(self, latents: Tensor) -> Tensor:
        return self.output.copy_(2 * latents)


def test_a_prediction_outlives_the_next_one(schedule: NoiseSchedule) -> None:
    network = Reusing()
    backbone = Backbone(
        network, Adapters.of(network), VariancePreserving(schedule), lambda asked, latents, time, told: asked(latents)
    )
    z, t, words = torch.ones(1, 4, 8, 8), torch.tensor([101]), Conditioning(torch.zeros(1, 3, 5))
    first = backbone(z, t, words, PLAIN)
    backbone(5 * z, t, words, PLAIN)
    assert torch.equal(first, 2 * z)


@pytest.mark.parametrize(("choice", "mode"), [("on", "default"), ("graphs", "reduce-overhead")])
def test_how_a_network_is_compiled(monkeypatch: pytest.MonkeyPatch, choice: Any, mode: str) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda network, **options: given.update(options))
    compile_network(nn.Linear(1, 1), choice)
    assert given == {"fullgraph": True, "dynamic": False, "mode": mode}
