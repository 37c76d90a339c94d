"""The numbers: defaults of each family, ranges, and TOML."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w

from stylescore.config.toml import from_table, to_table
from stylescore.errors import ConfigError
from stylescore.training.config import FAMILIES, RULES, StyleTrainingConfig, family_of, resolve


@pytest.mark.parametrize(("width", "family"), [(32, "mini"), (768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_a_family_is_told_by_the_width_of_its_text(width: int, family: str) -> None:
    assert family_of(width) == family


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_in_range_and_survive_toml(family: str) -> None:
    config = resolve({"name": "my-style"}, family)
    assert config.trigger == "my style"
    assert from_table(StyleTrainingConfig, tomllib.loads(tomli_w.dumps(to_table(config)))) == config


def test_alpha_follows_the_rank_unless_given() -> None:
    assert resolve({"name": "a", "rank": 8}, "sd1").alpha == 8.0
    assert resolve({"name": "a", "rank": 8, "alpha": 4}, "sd1").alpha == 4.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and 512, not 0"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"learning_rate": 2.0}, "learning_rate must be greater than 0 and at most 1, not 2.0"),
        ({"steps": 10**23}, "steps must be at most 1,000,000, not 1"),
        ({"batch": 1025}, "batch must be at most 1,024, not 1025"),
        ({"alpha": 1e30}, "alpha must be at most 65,536, not 1e"),
        ({"warmup": 10**9}, "warmup must be at most 1,000,000"),
        ({"clip_norm": 1e300}, "clip_norm must be at most 1,000,000"),
        ({"min_snr_gamma": 1e300}, "min_snr_gamma must be at most 1,000"),
        ({"samples_every": 10**9}, "samples_every must be at most 1,000,000"),
        ({"checkpoint_every": 10**9}, "checkpoint_every must be at most 1,000,000"),
        ({"trigger": "a" * 10_001}, "trigger must have at most 10,000 letters"),
        ({"loss": "huber"}, "loss must be one of plain, min_snr, not 'huber'"),
        ({"targets": "all"}, "targets must be one of"),
        ({"resolution": 32}, "resolution must be between 64 and 8192, not 32"),
        ({"caption_dropout": 1.0}, "caption_dropout must be"),
        ({"alpha": float("nan")}, "alpha must be a finite number"),
        ({"colour": 1}, "unknown setting 'colour'"),
        ({"name": "a/b"}, "a style's name must begin"),
        ({"name": ""}, "a style's name must begin"),
        ({"name": "a=0.5"}, "a style's name must begin"),
        ({"trigger": "\udcff"}, "trigger must be Unicode text"),
    ],
)
def test_what_is_out_of_range_is_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"name": "a", **setting}, "sd1")


@pytest.mark.parametrize("name", RULES)
def test_every_range_ends_on_both_sides(name: str) -> None:
    for value in (-(10**30), 10**30, -1e300, 1e300):
        assert RULES[name].broken_by(value)
