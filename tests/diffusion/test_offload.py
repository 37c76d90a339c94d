"""Weights that visit: the same answers and gradients, and between calls nothing of them is left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.assembly import networks as prepare
from stylescore.assembly.stylizer import Stylizer
from stylescore.diffusion.adapters import Adapters, fake_route
from stylescore.diffusion.execution.memory import keep_less
from stylescore.diffusion.execution.offload import Visitor, layer_weights, offload
from stylescore.errors import DeviceError
from stylescore.images import Photo
from stylescore.lora import Change, Product
from stylescore.lora.deltas import Hadamard
from stylescore.method.fit import fit

Rngs = Callable[..., list[torch.Generator]]
CPU = torch.device("cpu")


def absent(network: nn.Module) -> bool:
    """Tell whether every layer's weights are stand-ins that hold one number."""
    weights = [weight for own in layer_weights(network).values() for weight in own.values()]
    held = [weight.untyped_storage().nbytes() == weight.element_size() for weight in weights]
    return all(held) and all(bool(weight.isnan().all()) for weight in weights) and len(weights) > 20


class Counted(Visitor):
    """Notes how many bytes of weights are there at once."""

    now = 0
    most = 0

    def arrive(self, layer: nn.Module, inputs: Any) -> None:
        super().arrive(layer, inputs)
        for name in self.homes:
            weight = getattr(layer, name)
            size = weight.numel() * weight.element_size()
            Counted.now += size
            weakref.finalize(weight, self.gone, size)
        Counted.most = max(Counted.most, Counted.now)

    @staticmethod
    def gone(size: int) -> None:
        Counted.now -= size


@pytest.fixture
def ask(units: dict[str, Tensor]) -> Callable[[Adapters], Tensor]:
    def of(adapters: Adapters) -> Tensor:
        with adapters.switch.set(replace(fake_route(2, 2, CPU), style=True)):
            answer: Tensor = adapters.network(
                units["unet/x"], units["unet/t"], encoder_hidden_states=units["unet/text"]
            ).sample
        return answer

    return of


def adapted(unet: Any, deltas: Any, rngs: Rngs) -> tuple[Adapters, tuple[nn.Parameter, ...]]:
    adapters = Adapters.of(unet.requires_grad_(False))
    adapters.add_style(deltas, 0.8)
    parameters = adapters.add_fake(("to_q", "conv1"), 2, 4.0, rngs(1, 2))
    for parameter in parameters:
        parameter.data.add_(0.1)
    return adapters, parameters


def as_full(deltas: Mapping[str, Product]) -> dict[str, Change]:
    """Return changes of a kind that has no low rank, on the same layers."""
    return {name: Hadamard(delta, delta) for name, delta in deltas.items()}


@pytest.mark.parametrize("full", [False, True])
def test_answers_and_gradients_are_those_of_weights_that_stay(
    tiny_unet: Any, tiny_style: Any, rngs: Rngs, ask: Callable[[Adapters], Tensor], full: bool
) -> None:
    found = []
    for away in (False, True):
        unet = tiny_unet()
        deltas = tiny_style(unet)
        adapters, parameters = adapted(unet, as_full(deltas) if full else deltas, rngs)
        keep_less(adapters)
        if away:
            offload(unet, CPU)
            assert absent(unet)
        answer = ask(adapters)
        found.append((answer.detach(), torch.autograd.grad(answer.square().sum(), parameters)))
        assert absent(unet) == away
        assert unet.device == CPU
        assert unet.dtype == torch.float32
    (answer, gradients), (again, others) = found
    assert torch.equal(answer, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


def test_few_weights_are_there_at_once_also_on_the_way_back(
    tiny_unet: Any, tiny_style: Any, rngs: Rngs, ask: Callable[[Adapters], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylescore.diffusion.execution.offload.Visitor", Counted)
    most = []
    unet = tiny_unet()
    whole = sum(weight.numel() * weight.element_size() for weight in unet.parameters())
    adapters, parameters = adapted(unet, tiny_style(unet), rngs)
    offload(unet, CPU)
    for twice in (False, True):
        if twice:
            keep_less(adapters)
        gc.collect()
        Counted.now = Counted.most = 0
        with torch.no_grad():
            ask(adapters)
        forward, Counted.most = Counted.most, 0
        torch.autograd.grad(ask(adapters).sum(), parameters)
        most.append((forward, Counted.most))
        assert Counted.now == 0
    (forward, kept), (_, less) = most
    assert 0 < forward < 0.2 * whole  # the largest layer
    assert less < 0.6 * kept  # without blocks made twice all weights stay for the way back


def test_weights_leave_after_a_failure_too(tiny_unet: Any) -> None:
    unet = tiny_unet()
    offload(unet, CPU)
    layer = unet.conv_in
    with pytest.raises(RuntimeError):
        layer(torch.zeros(1, 99, 2, 2))
    assert absent(unet)


@pytest.mark.parametrize("family", ["sd2", "sdxl", "sd3", "flux-dev"])
def test_a_run_gives_the_same_picture(
    tiny_family: Any, run_on: Any, photos: list[Photo], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(prepare, "require_card", lambda device: None)
    ends = []
    for away in (False, True):
        stylizer = Stylizer(run_on(tiny_family(family), offload=away))
        fitting = stylizer.start(photos)
        assert (fitting.scores.together is not None) == away
        z = fitting.subject.render().clone()
        for _ in fit(fitting):
            pass
        ends.append(fitting.subject.render())
        assert not torch.equal(ends[-1], z)
    assert torch.allclose(*ends, atol=1e-4)


def test_both_networks_of_a_run_stay_away(
    tiny_family: Any, run_on: Any, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "require_card", lambda device: None)
    tiny = tiny_family("sd2")
    stylizer = Stylizer(run_on(tiny, style_model=str(tiny.folder), offload=True))
    assert stylizer.style_has_network
    models = stylizer.start(photos).scores
    del models
    for backbone in (stylizer._prepared.models.base, stylizer._prepared.models.style):
        assert absent(backbone.network)


def test_a_processor_has_nowhere_to_visit(tiny_family: Any, run_on: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        Stylizer(run_on(tiny_family("sd2"), offload=True))
    assert str(caught.value) == "--offload needs a GPU, the device is 'cpu'"
