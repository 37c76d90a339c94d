"""Leaving and going on: the picture at the end is the same, and does not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stylescore.assembly.fitting import Prompts, fit_latents
from stylescore.assembly.networks import Networks
from stylescore.config import presets
from stylescore.config.method import TRANSFER, FakeConfig, MethodConfig
from stylescore.errors import ConfigError
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting, fit
from stylescore.method.state import PictureState, capture, restore, source_latents

Maker = Callable[..., Networks]
CAPTIONS = ("a red house", "a lake")
SEEDS = (5, 6)
LENGTH = 4


def method_of(name: Any, optimiser: Any = "adamw") -> MethodConfig:
    """Return a short run of a method that moves from its first iteration on."""
    method = presets.load("reference", name)
    lr = 0.05 if optimiser == "sgd" else 0.1
    moving = replace(method.optimiser, name=optimiser, lr=lr, warmup=0, warmup_fraction=0.5)
    return replace(method, iterations=LENGTH, optimiser=moving, fake=replace(method.fake, rank=2))


def sources() -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models(tiny_models: Maker) -> Networks:
    return tiny_models()


def fitting_of(models: Networks, method: MethodConfig, pictures: Sequence[int]) -> Fitting:
    prompts = Prompts.of(method, "ink", [CAPTIONS[n] for n in pictures])
    rng = [torch.Generator().manual_seed(SEEDS[n]) for n in pictures]
    return fit_latents(models, method, prompts, sources()[list(pictures)], rng)


def advance(fitting: Fitting, until: int = LENGTH) -> Fitting:
    for _ in fit(fitting):
        if fitting.iteration == until:
            break
    return fitting


def end(fitting: Fitting, picture: int = 0) -> PictureState:
    return capture(advance(fitting), picture)


def interrupted(models: Networks, method: MethodConfig, pictures: Sequence[int], at: int) -> list[PictureState]:
    fitting = advance(fitting_of(models, method, pictures), at)
    return [capture(fitting, n) for n in range(len(pictures))]


def resumed(models: Networks, method: MethodConfig, pictures: Sequence[int], states: Sequence[PictureState]) -> Fitting:
    fitting = fitting_of(models, method, pictures)
    restore(fitting, states)
    return fitting


def same(a: PictureState, b: PictureState) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def near(a: PictureState, b: PictureState) -> bool:
    return all(
        torch.allclose(a.tensors[k].float(), b.tensors[k].float(), rtol=0, atol=1e-5)
        for k in a.tensors
        if k == "z" or (k.startswith("fake.") and k.count(".") == 1)
    )


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("name", [name for name in presets.METHODS if name not in TRANSFER])
def test_a_resumed_run_ends_in_the_same_bits(models: Networks, name: str, optimiser: str) -> None:
    method = method_of(name, optimiser)
    straight = end(fitting_of(models, method, [0]))
    states = interrupted(models, method, [0], 2)
    went_on = end(resumed(models, method, [0], states))
    assert same(straight, went_on)
    assert went_on.iteration == LENGTH
    assert not torch.equal(straight.tensors["z"], states[0].tensors["z"])
    assert any(k.startswith("fake.") for k in straight.tensors) == method.has_fake_score


def test_a_resumed_adam_run_ends_in_the_same_bits(models: Networks) -> None:
    method = method_of("dds", "adam")
    straight = end(fitting_of(models, method, [0]))
    went_on = end(resumed(models, method, [0], interrupted(models, method, [0], 1)))
    assert same(straight, went_on)


def sparing(method: MethodConfig) -> MethodConfig:
    """Return the method with the fake score's pass shared and the maps made beforehand."""
    fake = replace(method.fake, shared=True, guidance_scale=1.0)
    return replace(method, fake=fake, relevance=replace(method.relevance, timesteps=3))


def test_a_resumed_run_that_spares_passes_ends_in_the_same_bits(models: Networks) -> None:
    method = sparing(method_of("sms"))
    straight = end(fitting_of(models, method, [0]))
    assert same(straight, end(resumed(models, method, [0], interrupted(models, method, [0], 2))))


def test_a_batch_that_spares_passes_ends_like_its_pictures_one_by_one(models: Networks) -> None:
    method = sparing(method_of("sms", "sgd"))
    together = advance(fitting_of(models, method, [0, 1]))
    for n in range(2):
        assert near(capture(together, n), end(fitting_of(models, method, [n])))


def test_maps_made_beforehand_cost_two_passes_each_and_none_later(models: Networks) -> None:
    method = sparing(method_of("sms"))
    before = models.base.counter.snapshot()[0]
    fitting = fitting_of(models, method, [0])
    assert models.base.counter.snapshot()[0] - before == 3 * 2
    assert next(fit(fitting)).forward_passes == 2


@pytest.mark.parametrize("name", ["sms", "pds"])
def test_a_batch_ends_like_its_pictures_one_by_one(models: Networks, name: str) -> None:
    method = method_of(name, "sgd")
    together = advance(fitting_of(models, method, [0, 1]))
    for n in range(2):
        assert near(capture(together, n), end(fitting_of(models, method, [n])))


def test_pictures_of_a_batch_go_on_one_by_one(models: Networks) -> None:
    method = method_of("sms", "sgd")
    straight = advance(fitting_of(models, method, [0, 1]))
    states = interrupted(models, method, [0, 1], 2)
    for n in range(2):
        alone = end(resumed(models, method, [n], [states[n]]))
        assert near(alone, capture(straight, n))


def test_pictures_begun_one_by_one_go_on_as_a_batch(models: Networks) -> None:
    method = method_of("sms", "sgd")
    states = [interrupted(models, method, [n], 2)[0] for n in range(2)]
    together = advance(resumed(models, method, [0, 1], states))
    for n in range(2):
        assert near(capture(together, n), end(fitting_of(models, method, [n])))


def test_moments_are_split_by_picture(models: Networks) -> None:
    states = interrupted(models, method_of("sms"), [0, 1], 1)
    for state in states:
        assert state.tensors["z.exp_avg"].shape == (4, 8, 8)
        assert state.tensors["fake.0.exp_avg"].ndim == 2
        assert state.tensors["z.step"].ndim == 0
    assert not torch.equal(states[0].tensors["z.exp_avg"], states[1].tensors["z.exp_avg"])


def test_a_captured_state_does_not_change_with_the_run(models: Networks) -> None:
    fitting = advance(fitting_of(models, method_of("sms"), [0]), 1)
    state = capture(fitting, 0)
    before = {name: tensor.clone() for name, tensor in state.tensors.items()}
    advance(fitting)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.tensors.items())


def test_a_restored_state_does_not_change_with_the_run(models: Networks) -> None:
    method = method_of("sms")
    states = interrupted(models, method, [0], 1)
    before = {name: tensor.clone() for name, tensor in states[0].tensors.items()}
    advance(resumed(models, method, [0], states))
    assert all(torch.equal(before[name], tensor) for name, tensor in states[0].tensors.items())


def test_states_of_different_iterations_are_refused(models: Networks) -> None:
    method = method_of("dds")
    states = [interrupted(models, method, [n], n + 1)[0] for n in range(2)]
    with pytest.raises(ConfigError, match="must have the same iteration"):
        resumed(models, method, [0, 1], states)


def test_a_state_of_another_rank_is_refused(models: Networks) -> None:
    method = method_of("sms")
    states = interrupted(models, method, [0], 1)
    wider = replace(method, fake=FakeConfig(rank=3))
    with pytest.raises(ConfigError, match=r"the saved 'fake\.0' has shape \(1, 2, \d+\)") as caught:
        resumed(models, wider, [0], states)
    assert caught.value.hint == "it was made by another configuration"


def test_a_state_without_a_fake_score_is_refused_where_one_is_needed(models: Networks) -> None:
    states = interrupted(models, method_of("dds"), [0], 1)
    with pytest.raises(ConfigError, match=r"the saved state has no 'fake\.0'"):
        resumed(models, method_of("sms"), [0], states)


def changed(state: PictureState, **tensors: Tensor | None) -> PictureState:
    """Return a state with tensors replaced, or removed where `None` is given; `__` stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    merged = {**state.tensors, **named}
    return replace(state, tensors={name: tensor for name, tensor in merged.items() if tensor is not None})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"z": None}, "has no 'z'"),
        ({"generator": None}, "has no 'generator'"),
        ({"generator": torch.zeros(5056, dtype=torch.uint8)}, "the saved 'generator' cannot be used: "),
        ({"generator": torch.zeros(3)}, "the saved 'generator' cannot be used: "),
        ({"z__exp_avg": None}, r"has no 'z\.exp_avg'"),
        ({"z__step": None}, r"has no 'z\.step'"),
        ({"fake__0__exp_avg_sq": None}, r"has no 'fake\.0\.exp_avg_sq'"),
        ({"z": torch.zeros(4, 8, 9)}, r"the saved 'z' has shape \(1, 4, 8, 9\), the run needs \(1, 4, 8, 8\)"),
        ({"z__exp_avg": torch.zeros(())}, r"the saved 'z\.exp_avg' has shape"),
        ({"z__step": torch.zeros(2)}, r"the saved 'z\.step' must be one number"),
    ],
)
def test_a_state_that_does_not_fit_is_a_config_error(
    models: Networks, tensors: dict[str, Tensor | None], message: str
) -> None:
    method = method_of("sms")
    (state,) = interrupted(models, method, [0], 1)
    with pytest.raises(ConfigError, match=message) as caught:
        resumed(models, method, [0], [changed(state, **tensors)])
    assert caught.value.hint == "it was made by another configuration"


@pytest.mark.parametrize("iteration", [-5, LENGTH + 1])
def test_a_state_of_an_iteration_that_the_run_does_not_have_is_refused(models: Networks, iteration: int) -> None:
    method = method_of("dds")
    (state,) = interrupted(models, method, [0], 1)
    with pytest.raises(ConfigError, match=f"is that of iteration {iteration}, the run has {LENGTH} iterations"):
        resumed(models, method, [0], [replace(state, iteration=iteration)])


def test_states_of_one_batch_must_have_one_shape(models: Networks) -> None:
    method = method_of("dds")
    one, other = interrupted(models, method, [0, 1], 1)
    with pytest.raises(ConfigError, match="the saved 'z' has another shape in every picture"):
        resumed(models, method, [0, 1], [one, changed(other, z=torch.zeros(4, 8, 9))])
    with pytest.raises(ConfigError, match="has no 'z'"):
        resumed(models, method, [0, 1], [one, changed(other, z=None)])


def test_source_latents_come_as_a_batch_or_not_at_all(models: Networks) -> None:
    states = interrupted(models, method_of("dds"), [0, 1], 1)
    assert torch.equal(source_latents(states), sources())
    for z_source in (None, torch.zeros(4, 8, 9), torch.zeros(())):
        with pytest.raises(ConfigError, match="'z_source'"):
            source_latents([changed(states[0], z_source=z_source)])


def test_an_error_of_the_machine_while_restoring_passes_through(
    models: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_of("dds")
    states = interrupted(models, method, [0], 1)

    def exhaust(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "stack", exhaust)
    with pytest.raises(torch.OutOfMemoryError):
        resumed(models, method, [0], states)


def seeded(method: MethodConfig, **fake: Any) -> MethodConfig:
    """Return the method in clean-latent units with noise of its own and an anchored fake score of several views."""
    changed = replace(method.fake, sampler="run", anchor=0.2, augment="shifts", guidance_scale=1.0, **fake)
    return replace(method, weight="normalised", consistent_noise=0.5, fake=changed)


def test_a_resumed_run_with_a_noise_of_its_own_ends_in_the_same_bits(models: Networks) -> None:
    method = seeded(method_of("sms", "sgd"))
    straight = end(fitting_of(models, method, [0]))
    assert same(straight, end(resumed(models, method, [0], interrupted(models, method, [0], 2))))


def test_a_batch_with_noises_of_their_own_ends_like_its_pictures_one_by_one(models: Networks) -> None:
    method = seeded(method_of("sms", "sgd"))
    together = advance(fitting_of(models, method, [0, 1]))
    for n in range(2):
        assert near(capture(together, n), end(fitting_of(models, method, [n])))


def test_a_batch_that_shares_a_fake_score_has_one_adapter_and_goes_on_together(models: Networks) -> None:
    method = seeded(method_of("sms", "sgd"), scope="batch")
    straight = advance(fitting_of(models, method, [0, 1]))
    assert isinstance(straight.fake, FakeScore)
    assert all(len(parameter) == 1 for parameter in straight.fake.parameters)
    went_on = advance(resumed(models, method, [0, 1], interrupted(models, method, [0, 1], 2)))
    assert all(same(capture(straight, n), capture(went_on, n)) for n in range(2))
    assert not near(capture(straight, 0), end(fitting_of(models, method, [0])))
