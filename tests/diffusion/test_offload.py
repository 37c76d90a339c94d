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

from stylescore.assembly import networks
from stylescore.assembly.stylizer import Stylizer
from stylescore.diffusion.adapters import Adapters, TrainedAdapter, trained_route
from stylescore.diffusion.execution.memory import enable_gradient_checkpointing
from stylescore.diffusion.execution.offload import LayerOffloader, layer_weights, offload
from stylescore.errors import DeviceError
from stylescore.images import Photo
from stylescore.lora import Change, Product
from stylescore.lora.deltas import Hadamard
from stylescore.method.fit import fit

Rngs = Callable[..., list[torch.Generator]]
CPU = torch.device("cpu")


def absent(network: nn.Module) -> bool:
    """Tell whether every layer's weights are placeholders that hold one number."""
    weights = [weight for own in layer_weights(network).values() for weight in own.values()]
    held = [weight.untyped_storage().nbytes() == weight.element_size() for weight in weights]
    return all(held) and all(bool(weight.isnan().all()) for weight in weights) and len(weights) > 20


class Counted(LayerOffloader):
    """Notes how many bytes of weights are on the device at once."""

    now = 0
    most = 0

    def load(self, layer: nn.Module, inputs: Any) -> None:
        super().load(layer, inputs)
        for name in self.weights:
            weight = getattr(layer, name)
            size = weight.numel() * weight.element_size()
            Counted.now += size
            weakref.finalize(weight, self.gone, size)
        Counted.most = max(Counted.most, Counted.now)

    @staticmethod
    def gone(size: int) -> None:
        Counted.now -= size


@pytest.fixture
def predict(units: dict[str, Tensor]) -> Callable[[Adapters, TrainedAdapter], Tensor]:
    def of(adapters: Adapters, fake: TrainedAdapter) -> Tensor:
        with adapters.switch.set(replace(trained_route(fake, 2, 2, CPU), style=True)):
            output: Tensor = adapters.network(
                units["unet/x"], units["unet/t"], encoder_hidden_states=units["unet/text"]
            ).sample
        return output

    return of


def adapted(unet: Any, deltas: Any, rngs: Rngs) -> tuple[Adapters, TrainedAdapter]:
    adapters = Adapters.of(unet.requires_grad_(False))
    adapters.add_style(deltas, 0.8)
    fake = adapters.new_fake(("to_q", "conv1"), 2, 4.0, rngs(1, 2))
    for parameter in fake.parameters:
        parameter.data.add_(0.1)
    return adapters, fake


def as_full(deltas: Mapping[str, Product]) -> dict[str, Change]:
    """Return changes of a kind that has no low rank, on the same layers."""
    return {name: Hadamard(delta, delta) for name, delta in deltas.items()}


@pytest.mark.parametrize("full", [False, True])
def test_answers_and_gradients_are_those_of_weights_that_stay(
    tiny_unet: Any, tiny_style: Any, rngs: Rngs, predict: Callable[..., Tensor], full: bool
) -> None:
    found = []
    for away in (False, True):
        unet = tiny_unet()
        deltas = tiny_style(unet)
        adapters, fake = adapted(unet, as_full(deltas) if full else deltas, rngs)
        enable_gradient_checkpointing(adapters)
        if away:
            offload(unet, CPU)
            assert absent(unet)
        output = predict(adapters, fake)
        found.append((output.detach(), torch.autograd.grad(output.square().sum(), fake.parameters)))
        assert absent(unet) == away
        assert unet.device == CPU
        assert unet.dtype == torch.float32
    (output, gradients), (again, others) = found
    assert torch.equal(output, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, others, strict=True))


def test_few_weights_are_there_at_once_also_in_the_backward_pass(
    tiny_unet: Any, tiny_style: Any, rngs: Rngs, predict: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylescore.diffusion.execution.offload.LayerOffloader", Counted)
    most = []
    unet = tiny_unet()
    whole = sum(weight.numel() * weight.element_size() for weight in unet.parameters())
    adapters, fake = adapted(unet, tiny_style(unet), rngs)
    offload(unet, CPU)
    for twice in (False, True):
        if twice:
            enable_gradient_checkpointing(adapters)
        gc.collect()
        Counted.now = Counted.most = 0
        with torch.no_grad():
            predict(adapters, fake)
        forward, Counted.most = Counted.most, 0
        torch.autograd.grad(predict(adapters, fake).sum(), fake.parameters)
        most.append((forward, Counted.most))
        assert Counted.now == 0
    (forward, kept), (_, less) = most
    assert 0 < forward < 0.2 * whole  # the largest layer
    assert less < 0.6 * kept  # without checkpointing all weights stay for the backward pass


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
    monkeypatch.setattr(networks, "require_gpu", lambda device: None)
    ends = []
    for memory in ("normal", "offload"):
        fitting = Stylizer(run_on(tiny_family(family), memory=memory)).start(photos)
        assert fitting.scores.batched == (memory == "offload")
        z = fitting.subject.render().clone()
        for _ in fit(fitting):
            pass
        ends.append(fitting.subject.render())
        assert not torch.equal(ends[-1], z)
    assert torch.allclose(*ends, atol=1e-4)


def test_both_networks_of_a_run_stay_away(
    tiny_family: Any, run_on: Any, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "require_gpu", lambda device: None)
    tiny = tiny_family("sd2")
    stylizer = Stylizer(run_on(tiny, style_model=str(tiny.folder), memory="offload"))
    assert stylizer.style_has_network
    stylizer.start(photos)
    for backbone in (stylizer._networks.base, stylizer._networks.style):
        assert absent(backbone.network)


def test_a_cpu_has_nothing_to_offload_from(tiny_family: Any, run_on: Any) -> None:
    with pytest.raises(DeviceError) as caught:
        Stylizer(run_on(tiny_family("sd2"), memory="offload"))
    assert str(caught.value) == "--memory offload needs a GPU, the device is 'cpu'"
