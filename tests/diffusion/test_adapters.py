"""Adapters inside the tiny U-Net against the recording, a dense merge and peft."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from stylescore.diffusion.adapters import (
    PLAIN,
    Adapted,
    Adapters,
    Route,
    TrainedAdapter,
    adaptable,
    add_on_rows,
    merge,
    trained_route,
)
from stylescore.lora import Product

Rngs = Callable[..., list[torch.Generator]]
UNets = Callable[[], Any]
QV = ("to_q", "to_v")


def predict(unet: Any, units: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return unet(units["unet/x"], units["unet/t"], encoder_hidden_states=units["unet/text"]).sample


def close(found: Tensor, recorded: Tensor) -> bool:
    return (found - recorded).abs().max().item() <= 2e-4 * recorded.abs().max().item()


def fill(fake: TrainedAdapter, seed: int = 0) -> TrainedAdapter:
    """Give a fake adapter, which starts at zero, an effect of its own on every sample."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in fake.parameters:
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=rng))
    return fake


def load_recorded(fake: TrainedAdapter, units: dict[str, Tensor]) -> None:
    for name, parameter in fake.state.items():
        module, _, part = name.rpartition(".")
        recorded = units[f"unet/adapter/{module}.lora_{part[-1].upper()}.weight"]
        parameter.data.copy_(recorded.expand_as(parameter))


def test_the_plain_network_gives_the_recorded_output(tiny_unet: UNets, units: dict[str, Tensor]) -> None:
    assert close(predict(tiny_unet(), units), units["unet/base"])


def test_wrapped_layers_without_a_route_change_nothing(
    tiny_unet: UNets, tiny_style: Any, units: dict[str, Tensor], rngs: Rngs
) -> None:
    unet = tiny_unet()
    before = predict(unet, units)
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 0.8)
    fill(adapters.new_fake(QV, 8, 32.0, rngs(1, 2)))
    assert torch.equal(predict(unet, units), before)


def test_a_fresh_fake_adapter_leaves_the_output_equal(tiny_unet: UNets, units: dict[str, Tensor], rngs: Rngs) -> None:
    unet = tiny_unet()
    before = predict(unet, units)
    adapters = Adapters.of(unet)
    fake = adapters.new_fake(QV, 8, 32.0, rngs(1, 2))
    with adapters.switch.set(trained_route(fake, 2, 2, torch.device("cpu"))):
        assert torch.equal(predict(unet, units), before)


def test_the_style_adapter_gives_the_recorded_output(
    tiny_unet: UNets, tiny_style: Any, units: dict[str, Tensor]
) -> None:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 0.8)
    with adapters.switch.set(Route(style=True)):
        assert close(predict(unet, units), units["unet/base_plus_style_lora"])


def test_another_style_strength_does_not(tiny_unet: UNets, tiny_style: Any, units: dict[str, Tensor]) -> None:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 1.0)
    with adapters.switch.set(Route(style=True)):
        assert not close(predict(unet, units), units["unet/base_plus_style_lora"])


def test_merging_gives_the_recorded_weights(tiny_unet: UNets, tiny_style: Any, units: dict[str, Tensor]) -> None:
    unet = tiny_unet()
    merge(unet, tiny_style(unet), 0.8)
    recorded = {k.removeprefix("merged/"): v for k, v in units.items() if k.startswith("merged/")}
    assert len(recorded) == 5
    for name, weight in recorded.items():
        assert torch.equal(unet.get_parameter(name), weight)
    assert close(predict(unet, units), units["unet/base_plus_style_lora"])


def test_the_fake_adapter_gives_the_recorded_output(tiny_unet: UNets, units: dict[str, Tensor], rngs: Rngs) -> None:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    fake = adapters.new_fake(QV, 8, 32.0, rngs(1))
    load_recorded(fake, units)
    with adapters.switch.set(trained_route(fake, 1, 2, torch.device("cpu"))):
        assert close(predict(unet, units), units["unet/base_plus_random_adapter_r8_alpha32"])


def test_convolutions_of_a_batch_equal_those_of_its_samples(
    tiny_unet: UNets, units: dict[str, Tensor], rngs: Rngs
) -> None:
    together = Adapters.of(tiny_unet())
    fake = fill(together.new_fake(("conv1", "conv2"), 4, 8.0, rngs(1, 2)))
    with together.switch.set(trained_route(fake, 2, 2, torch.device("cpu"))):
        batch = predict(together.network, units)
    for sample in range(2):
        alone = Adapters.of(tiny_unet())
        one = alone.new_fake(("conv1", "conv2"), 4, 8.0, rngs(1))
        for name, parameter in one.state.items():
            parameter.data.copy_(fake.state[name][sample : sample + 1])
        with alone.switch.set(trained_route(one, 1, 2, torch.device("cpu"))):
            assert torch.allclose(predict(alone.network, units)[sample], batch[sample], atol=1e-5)


@pytest.mark.parametrize("targets", [QV, ("conv1", "conv2", "conv_shortcut", "conv")], ids=["linear", "convolutions"])
def test_the_fake_adapter_equals_peft(
    tiny_unet: UNets, units: dict[str, Tensor], rngs: Rngs, targets: tuple[str, ...]
) -> None:
    unet, other = tiny_unet(), tiny_unet()
    adapters = Adapters.of(unet)
    fake = fill(adapters.new_fake(targets, 4, 6.0, rngs(1)))
    config = LoraConfig(r=4, lora_alpha=6.0, target_modules=list(targets), lora_dropout=0.0)
    inject_adapter_in_model(config, other)
    ours, theirs = fake.state, dict(other.named_parameters())
    for name, parameter in ours.items():
        module, _, part = name.rpartition(".")
        there = theirs[f"{module}.lora_{part[-1].upper()}.default.weight"]
        there.data.copy_(parameter[0].view_as(there))
    assert sum("lora_" in name for name in theirs) == len(ours) > 20
    with adapters.switch.set(trained_route(fake, 1, 2, torch.device("cpu"))):
        assert torch.allclose(predict(unet, units), predict(other, units), atol=1e-5)


def test_the_fake_adapter_starts_like_pefts(tiny_unet: UNets, rngs: Rngs) -> None:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    fake = adapters.new_fake(QV, 8, 32.0, rngs(1))
    config = LoraConfig(r=8, lora_alpha=32, target_modules=list(QV))
    peft = dict(inject_adapter_in_model(config, tiny_unet()).named_parameters())
    for name, parameter in fake.state.items():
        module, _, part = name.rpartition(".")
        theirs = peft[f"{module}.lora_{part[-1].upper()}.default.weight"]
        assert parameter.shape[1:] == theirs.shape
        bound = parameter.shape[-1] ** -0.5
        if part == "lora_a":
            assert 0.9 * bound < parameter.abs().max() <= bound
            assert 0.9 * bound < theirs.abs().max() <= bound
        else:
            assert not parameter.any()


def test_a_samples_fake_adapter_starts_the_same_in_any_batch(tiny_unet: UNets, rngs: Rngs) -> None:
    states = []
    for seeds in ((1,), (2,), (1, 2)):
        adapters = Adapters.of(tiny_unet())
        states.append(adapters.new_fake(QV, 8, 32.0, rngs(*seeds)).state)
    first, second, both = states
    for name, parameter in both.items():
        assert torch.equal(parameter, torch.cat([first[name], second[name]]))


def test_a_batch_with_fake_adapteres_equals_one_by_one_with_gradients(
    tiny_unet: UNets, units: dict[str, Tensor], rngs: Rngs
) -> None:
    unet = tiny_unet()
    adapters = Adapters.of(unet)
    fake = fill(adapters.new_fake(QV, 4, 8.0, rngs(1, 2)))
    parameters = fake.parameters
    x, t, text = units["unet/x"], units["unet/t"], units["unet/text"]
    with adapters.switch.set(trained_route(fake, 2, 2, torch.device("cpu"))):
        together = unet(x, t, encoder_hidden_states=text).sample
        together.square().sum().backward()
    gradients = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    for n in range(2):
        with adapters.switch.set(Route(trained=fake, samples=torch.tensor([n]))):
            alone = unet(x[n : n + 1], t[n : n + 1], encoder_hidden_states=text[n : n + 1]).sample
            alone.square().sum().backward()
        assert torch.allclose(together[n], alone[0], atol=1e-5)
    for together_grad, p in zip(gradients, parameters, strict=True):
        assert torch.allclose(together_grad, p.grad, rtol=1e-3, atol=1e-4 * p.grad.abs().max().item())
        assert together_grad[0].any()
        assert together_grad[1].any()


def test_a_route_pairs_row_n_with_sample_n_modulo_batch() -> None:
    assert trained_route(TrainedAdapter({}), 3, 6, torch.device("cpu")).samples.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_switch_goes_back_to_the_route_before() -> None:
    switch = Adapters.of(nn.Identity()).switch
    with switch.set(Route(style=True)):
        with switch.set(Route(samples=torch.zeros(1, dtype=torch.long))):
            assert not switch.route.style
        assert switch.route.style
    assert switch.route is PLAIN


def test_the_switch_is_taken_back_after_an_exception() -> None:
    switch = Adapters.of(nn.Identity()).switch
    with pytest.raises(ZeroDivisionError), switch.set(Route(style=True)):
        _ = 1 / 0
    assert switch.route is PLAIN


def low_rank(out: int, inner: int, rank: int = 3, kernel: tuple[int, int] | None = None) -> Product:
    rng = torch.Generator().manual_seed(4)
    down = (rank, inner, *kernel) if kernel else (rank, inner)
    up = (out, rank, 1, 1) if kernel else (out, rank)
    return Product(torch.randn(down, generator=rng), torch.randn(up, generator=rng), 0.5)


LAYERS = {
    "linear": (nn.Linear(6, 5), low_rank(5, 6), (2, 7, 6)),
    "1x1": (nn.Conv2d(6, 5, 1), low_rank(5, 6, kernel=(1, 1)), (2, 6, 7, 4)),
    "3x3 with stride": (
        nn.Conv2d(6, 5, 3, stride=2, padding=1),
        low_rank(5, 6, kernel=(3, 3)),
        (2, 6, 9, 8),
    ),
    "3x3 dilated": (
        nn.Conv2d(6, 5, 3, padding=2, dilation=2),
        low_rank(5, 6, kernel=(3, 3)),
        (2, 6, 9, 8),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_style_adapter_equals_a_dense_merge(name: str) -> None:
    layer, delta, shape = LAYERS[name]
    branched, merged = nn.Sequential(deepcopy(layer)), nn.Sequential(deepcopy(layer))
    adapters = Adapters.of(branched)
    adapters.add_style({"0": delta}, 0.7)
    merge(merged, {"0": delta}, 0.7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    with adapters.switch.set(Route(style=True)):
        assert torch.allclose(branched(x), merged(x), atol=1e-5)
    assert not torch.allclose(branched(x), merged(x), atol=1e-2)


def test_a_frozen_style_adapter_has_no_parameters(tiny_unet: UNets, tiny_style: Any) -> None:
    unet = tiny_unet()
    before = len(list(unet.parameters()))
    Adapters.of(unet).add_style(tiny_style(unet), 0.8)
    assert len(list(unet.parameters())) == before


def test_wrapping_hides_from_the_list_of_adaptable_layers(tiny_unet: UNets, tiny_style: Any, rngs: Rngs) -> None:
    unet = tiny_unet()
    before = adaptable(unet)
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 0.8)
    adapters.new_fake(QV, 8, 32.0, rngs(1))
    assert adaptable(unet) == before
    assert sum(isinstance(m, Adapted) for m in unet.modules()) == 48


@pytest.mark.parametrize("rows", [(0, 3), (1, 2), (2, 3), (0, 0)])
def test_a_change_on_some_rows_leaves_the_others_alone(rows: tuple[int, int]) -> None:
    y, x = torch.zeros(3, 2), torch.arange(6.0).view(3, 2) + 1
    found = add_on_rows(y, x, rows, lambda some: 10 * some)
    chosen = range(*rows)
    for n in range(3):
        assert torch.equal(found[n], 10 * x[n] if n in chosen else y[n])
    assert torch.equal(y, torch.zeros(3, 2))


def test_a_compiled_network_has_no_graph_break_and_one_graph_a_route(
    tiny_unet: UNets, tiny_style: Callable[[Any], Any], units: dict[str, Tensor], rngs: Rngs
) -> None:
    from torch._dynamo.testing import CompileCounter

    unet = tiny_unet()
    adapters = Adapters.of(unet)
    adapters.add_style(tiny_style(unet), 0.8)
    fake = adapters.new_fake(QV, 4, 8.0, rngs(1, 2))
    graphs = CompileCounter()
    compiled = torch.compile(unet, backend=graphs, fullgraph=True, dynamic=False)
    for make in 2 * [lambda: Route(style=True), lambda: trained_route(fake, 2, 2, torch.device("cpu"))]:
        with adapters.switch.set(make()):
            assert torch.allclose(predict(compiled, units), predict(unet, units), atol=1e-5)
    assert graphs.frame_count == 2
