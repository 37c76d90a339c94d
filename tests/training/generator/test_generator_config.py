"""The settings of a generator's training and their ranges."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stylescore.config.run import RunConfig, StyleChoice
from stylescore.config.toml import from_table, to_table
from stylescore.errors import ConfigError
from stylescore.generators.kinds import NETWORKS
from stylescore.training.generator.config import (
    GENERATORS,
    PRESETS,
    RULES,
    GeneratorTrainingConfig,
    matching_method,
    pairs_run,
    resolve,
)

RUN = RunConfig(styles=(StyleChoice(name="van-gogh"),))
BAD: dict[str, Any] = {
    "width": -1,
    "blocks": 65,
    "rank": 513,
    "timestep": 1000,
    "warmup": -1,
    "beta1": 1.0,
    "clip_norm": 0.0,
    "ema": 1.0,
    "stability": -1.0,
    "accumulate": 0,
    "held_out": 0,
    "measure_every": -1,
    "patience": -1,
    "workers": -1,
    "samples_every": -1,
    "checkpoint_every": -1,
    "keep": -1,
    "passes": 0,
    "strength": 1.5,
    "pairs.count": 3,
    "pairs.batch": 0,
    "pairs.teacher_passes": 9,
    "pairs.teacher_strength": 0.0,
    "regression.steps": -1,
    "regression.batch": 0,
    "regression.learning_rate": 0.0,
    "regression.pixel": -1.0,
    "regression.perceptual": -1.0,
    "regression.perceptual_t": 2,
    "regression.adversarial": -1.0,
    "regression.texture": -1.0,
    "matching.steps": -1,
    "matching.batch": 0,
    "matching.learning_rate": 2.0,
    "matching.fake_steps": 0,
    "matching.fake_warmup": -1,
    "matching.regression": -1.0,
}


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def test_every_rule_has_a_value_that_breaks_it() -> None:
    assert set(BAD) == set(RULES)


@pytest.mark.parametrize("name", BAD)
def test_a_number_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        resolve({"name": "a", **nested(name, BAD[name])}, RUN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "a generator's name must begin"),
        ({"network": "vit"}, "network must be one of mobile, resnet9, lora"),
        ({"size": 63}, "size must be between 64"),
        ({"size": 100}, "size must be a multiple of 8, not 100"),
        ({"regression": {"crop": 63}}, "regression.crop must be between 64"),
        ({"regression": {"crop": 100}}, "regression.crop must be a multiple of 8, not 100"),
        ({"size": 128, "regression": {"crop": 136}}, "regression.crop must be at most the size, 128, not 136"),
        ({"regression": {"flip": True}}, "regression.flip needs a network without noise"),
        ({"colour": 1}, "unknown setting 'colour'"),
        ({"regression": {"optimiser": "sgd"}}, "regression.optimiser must be one of muon, adam"),
        ({"matching": {"optimiser": "adamw"}}, "matching.optimiser must be one of muon, adam"),
        ({"regression": {"steps": 0}, "matching": {"steps": 0}}, "needs steps in one of its phases"),
        ({"matching": {"method": {"fake": {"scope": "picture"}}}}, "fake.scope must be 'batch'"),
        ({"matching": {"method": {"relevance": {"timesteps": 4}}}}, "relevance.timesteps must be 0"),
        ({"matching": {"method": {"fake": {"shared": True}}}}, "fake.shared must be False"),
        ({"matching": {"method": {"guidance_scale": -1}}}, "guidance_scale must be"),
    ],
)
def test_what_cannot_be_used_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"name": "a", **given}, RUN)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="no preset 'standart'"):
        resolve({"name": "a"}, RUN, "standart")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_its_record(preset: str) -> None:
    config = resolve({"name": "a"}, RUN, preset)
    assert from_table(GeneratorTrainingConfig, to_table(config)) == config


def test_a_preset_goes_before_what_a_network_wants() -> None:
    plain, papers = (resolve({"name": "a", "network": "lora"}, RUN, preset) for preset in ("standard", "paper"))
    assert (plain.regression.learning_rate, plain.regression.texture, plain.noise) == (3e-4, 2.0, True)
    assert (papers.regression.learning_rate, papers.regression.texture, papers.noise) == (2e-4, 0.0, True)
    with pytest.raises(ConfigError, match="the network lora takes noise"):
        resolve({"name": "a", "network": "lora", "noise": False}, RUN, "paper")


def test_the_papers_generator_is_the_resnet_without_noise() -> None:
    config = resolve({"name": "a"}, RUN, "paper")
    assert (config.network, config.noise, config.pairs.count, config.beta1) == ("resnet9", False, 0, 0.5)


def test_a_stated_setting_wins_over_the_preset() -> None:
    assert resolve({"name": "a", "regression": {"steps": 7}}, RUN, "draft").regression.steps == 7


def test_the_runs_of_pairs_have_one_noise_and_one_size() -> None:
    method = pairs_run(RUN).method
    assert (method.consistent_noise, method.fake.shared, method.refine.factor) == (1.0, False, 1.0)
    assert method.timesteps.t_max == 651


def test_constants_of_the_runs_can_be_stated_and_hold_in_both_phases_unless_stated_there() -> None:
    given = {"name": "a", "run": {"method": {"timesteps": {"t_max": 801}, "spectrum": {"weight": 0.5}}}}
    config = resolve({**given, "matching": {"method": {"timesteps": {"t_max": 701}}}}, RUN)
    assert config.run.method.timesteps.t_max == 801
    assert config.matching.method.timesteps.t_max == 701
    assert config.run.method.spectrum.weight == config.matching.method.spectrum.weight == 0.5
    assert resolve({"name": "a"}, RUN).matching.method.timesteps.t_max == RUN.method.timesteps.t_max


def test_a_stated_share_of_fixed_noise_is_that_of_the_pairs_alone() -> None:
    config = resolve({"name": "a", "run": {"method": {"consistent_noise": 0.25}}}, RUN)
    assert (config.run.method.consistent_noise, config.matching.method.consistent_noise) == (0.25, 0.0)


def test_a_network_has_fresh_noise_and_one_fake_score() -> None:
    method = matching_method(RUN.method)
    assert (method.consistent_noise, method.fake.scope, method.weight) == (0.0, "batch", "normalised")
    assert method.spectrum == RUN.method.spectrum


def test_a_network_has_uniform_timesteps_without_the_small_ones_where_a_run_has_annealed_ones() -> None:
    assert RUN.method.timesteps.sampler == "annealed"
    found = matching_method(RUN.method).timesteps
    assert (found.sampler, found.t_min, found.t_max) == ("uniform", 501, RUN.method.timesteps.t_max)
    short = replace(RUN.method, timesteps=replace(RUN.method.timesteps, t_max=301))
    assert matching_method(short).timesteps.t_min == 299
    for sampler in ("narrowing", "uniform"):
        other = replace(RUN.method.timesteps, sampler=sampler)
        assert matching_method(replace(RUN.method, timesteps=other)).timesteps == other
    stated = resolve({"name": "a", "run": {"method": {"timesteps": {"t_min": 101}}}}, RUN)
    assert stated.matching.method.timesteps.t_min == stated.run.method.timesteps.t_min == 101


def test_the_settings_know_every_network() -> None:
    assert set(GENERATORS) == set(NETWORKS)
