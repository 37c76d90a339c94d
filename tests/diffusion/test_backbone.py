from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.assembly.networks import compiled
from stylescore.diffusion.adapters import PLAIN, Adapters, Route
from stylescore.diffusion.backbone import Backbone, Prompted
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


def fill(parameters: tuple[torch.nn.Parameter, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))


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
def test_a_pair_equals_its_two_halves(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs, score: str
) -> None:
    fill(backbone.adapters.add_fake(QV, 4, 8.0, rngs(1, 2)))
    flags = {"style": score == "style", "fake": score == "fake"}
    with torch.no_grad():
        eps_c, eps_u = Prompted(backbone, *text, **flags).pair(*inputs)
        alone = Prompted(backbone, *text, **flags).alone(*inputs)
        unconditional = Prompted(backbone, text[1], text[0], **flags).alone(*inputs)
    assert torch.allclose(eps_c, alone, atol=1e-5)
    assert torch.allclose(eps_u, unconditional, atol=1e-5)
    assert not torch.allclose(eps_c, eps_u, atol=1e-3)


def test_the_three_scores_differ(backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs) -> None:
    fill(backbone.adapters.add_fake(QV, 4, 8.0, rngs(1, 2)))
    with torch.no_grad():
        real, style, fake = (
            Prompted(backbone, *text, **flags).alone(*inputs) for flags in ({}, {"style": True}, {"fake": True})
        )
    for a, b in ((real, style), (style, fake), (real, fake)):
        assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("fake", [False, True])
def test_a_batch_equals_one_by_one(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text, rngs: Rngs, fake: bool
) -> None:
    parameters = backbone.adapters.add_fake(QV, 4, 8.0, rngs(1, 2))
    fill(parameters)
    values = [p.data.clone() for p in parameters]
    x, t = inputs
    with torch.no_grad():
        together = Prompted(backbone, *text, fake=fake).pair(x, t)
        for n in range(2):
            one = slice(n, n + 1)
            for p, value in zip(backbone.adapters.add_fake(QV, 4, 8.0, rngs(3)), values, strict=True):
                p.data.copy_(value[one])
            alone = Prompted(backbone, text[0][one], text[1][one], fake=fake).pair(x[one], t[one])
            for all_rows, row in zip(together, alone, strict=True):
                assert torch.allclose(all_rows[one], row, atol=1e-5)


def test_the_switch_is_plain_again_after_a_call_that_fails(backbone: Backbone, inputs: tuple[Tensor, Tensor]) -> None:
    x, t = inputs
    with pytest.raises(RuntimeError):
        backbone(x, t, Conditioning(torch.zeros(2, 77, 5)), Route(style=True))
    assert backbone.adapters.switch.route is PLAIN


def test_samples_are_counted_apart_by_whether_they_are_differentiated(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text
) -> None:
    prompted = Prompted(backbone, *text)
    with torch.no_grad():
        prompted.pair(*inputs)
    prompted.alone(*inputs)
    assert backbone.counter.snapshot() == (4, 2)


def test_a_half_precision_network_answers_in_float32(
    backbone: Backbone, inputs: tuple[Tensor, Tensor], text: Text
) -> None:
    x, t = inputs
    with torch.no_grad():
        exact = Prompted(backbone, *text).alone(x, t)
        backbone.network.to(torch.bfloat16)
        rounded = Prompted(backbone, *text).alone(x, t)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, exact, atol=0.1 * exact.abs().max().item())


class Reusing(nn.Module):
    """Answers in one piece of memory every time, as a network played back from a CUDA graph does."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        self.answer = torch.zeros(1, 4, 8, 8)

    def forward(self, latents: Tensor) -> Tensor:
        return self.answer.copy_(2 * latents)


def test_an_answer_outlives_the_next_one(schedule: NoiseSchedule) -> None:
    network = Reusing()
    backbone = Backbone(
        network, Adapters.of(network), VariancePreserving(schedule), lambda asked, latents, time, told: asked(latents)
    )
    z, t, words = torch.ones(1, 4, 8, 8), torch.tensor([101]), Conditioning(torch.zeros(1, 3, 5))
    first = backbone(z, t, words, PLAIN)
    backbone(5 * z, t, words, PLAIN)
    assert torch.equal(first, 2 * z)


@pytest.mark.parametrize(("graphs", "mode"), [(False, "default"), (True, "reduce-overhead")])
def test_what_torch_is_asked_to_make_of_a_network(monkeypatch: pytest.MonkeyPatch, graphs: bool, mode: str) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "compile", lambda network, **options: asked.update(options))
    compiled(nn.Linear(1, 1), graphs)
    assert asked == {"fullgraph": True, "dynamic": False, "mode": mode}
