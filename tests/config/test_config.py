"""Settings: tables and back, what is refused and with which words, presets, prompts, the content knob."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from stylescore.assembly.fitting import Prompts
from stylescore.assembly.objectives import make_relevance, make_spectrum
from stylescore.config import presets
from stylescore.config.content_knob import (
    gatys_weights,
    relevance_strength,
    sampling_strength,
    spectrum_factor,
    styleid_gamma,
    with_content,
    with_strength,
)
from stylescore.config.method import (
    AdainConfig,
    FakeConfig,
    FreestyleConfig,
    GatysConfig,
    GhiasiConfig,
    InstantStyleConfig,
    MethodConfig,
    RelevanceConfig,
    SdeditConfig,
    SpectrumConfig,
    StyleIdConfig,
)
from stylescore.config.ranges import METHOD_RULES, Rule, check, check_method, check_run
from stylescore.config.run import RunConfig, StyleChoice, with_options
from stylescore.config.toml import from_table, load_toml, merge_tables, overlay, to_table
from stylescore.errors import ConfigError
from stylescore.method.relevance import UniformRelevance
from stylescore.method.spectrum import no_spectrum

EVERY = [(name, method) for name in presets.names() for method in presets.METHODS]
contents = st.floats(0, 1)


def changed(method: MethodConfig, dotted: str, value: Any) -> MethodConfig:
    part, _, leaf = dotted.rpartition(".")
    if not part:
        return replace(method, **{leaf: value})
    return replace(method, **{part: replace(getattr(method, part), **{leaf: value})})


def run_of(**changes: Any) -> RunConfig:
    return with_options(RunConfig(styles=(StyleChoice(name="ink"),)), changes)


# Tables


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_every_preset_and_method_survives_toml(name: str, method: Any) -> None:
    config = presets.load(name, method)
    text = tomli_w.dumps(to_table(config))
    assert from_table(MethodConfig, tomllib.loads(text)) == config


def test_a_whole_run_survives_toml() -> None:
    styles = (StyleChoice(name="ink"), StyleChoice(name="hub/some-style", weight=-0.5))
    run = run_of(styles=styles, style_prompt="ink drawing", size=512, seed=2**62, method=presets.load("paper"))
    assert from_table(RunConfig, tomllib.loads(tomli_w.dumps(to_table(run)))) == run


def test_fields_that_are_none_are_left_out_and_come_back() -> None:
    table = to_table(run_of())
    assert "style_prompt" not in table
    assert from_table(RunConfig, table).style_prompt is None


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({"iteration": 3}, "unknown setting 'iteration'", "did you mean 'iterations'?"),
        ({"fake": {"rang": 3}}, "unknown setting 'fake.rang'", "did you mean 'rank'?"),
        ({"fake": {"zzzz": 3}}, "unknown setting 'fake.zzzz'", "known names: alpha, anchor"),
        (
            {"method": "smss"},
            "method must be one of sms, vsd, sds, dds, pds, sdedit, styleid, freestyle, "
            "instantstyle, gatys, adain, ghiasi, not 'smss'",
            "did you mean 'sms'?",
        ),
        ({"iterations": "many"}, "iterations must be a whole number, not 'many'", "write a whole number"),
        ({"iterations": 3.5}, "iterations must be a whole number, not 3.5", "write a whole number"),
        ({"iterations": True}, "iterations must be a whole number, not True", "write a whole number"),
        ({"guidance_scale": True}, "guidance_scale must be a number, not True", "write a number"),
        ({"text_encoder_lora": 1}, "text_encoder_lora must be true or false, not 1", "write true or false"),
        ({"fake": {"targets": "to_q"}}, "fake.targets must be a list, not 'to_q'", 'write ["a", "b"]'),
        ({"fake": {"targets": ["to_q", 3]}}, "fake.targets[1] must be a text, not 3", "write a text"),
        ({"spectrum": 3}, "spectrum must be a table of settings, not 3", "write a table of settings"),
    ],
)
@pytest.mark.parametrize("how", ["from_table", "overlay"])
def test_what_cannot_be_a_setting_is_refused(table: dict[str, Any], message: str, hint: str, how: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table(MethodConfig, table) if how == "from_table" else overlay(MethodConfig(), table)
    assert str(caught.value) == message
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_whole_numbers_are_taken_for_fractions() -> None:
    method = from_table(MethodConfig, {"guidance_scale": 7, "optimiser": {"warmup": 100}})
    assert isinstance(method.guidance_scale, float)
    assert method.optimiser.warmup == 100.0


def test_a_missing_field_is_told() -> None:
    with pytest.raises(ConfigError, match="the table of settings lacks styles"):
        from_table(RunConfig, {"seed": 3})


def test_overlay_keeps_what_is_not_named() -> None:
    base = presets.load("reference")
    found = overlay(base, {"spectrum": {"weight": 2e-4}})
    assert found == replace(base, spectrum=replace(base.spectrum, weight=2e-4))


# Ranges

MUCH = {
    "iterations": 1_000_000,
    "guidance_scale": 1000,
    "relevance.timesteps": 999,
    "spectrum.weight": 1000,
    "spectrum.period": 10_000,
    "spectrum.free_below": 16_384,
    "spectrum.largest_factor": 10_000,
    "optimiser.lr": 1000,
    "optimiser.weight_decay": 100,
    "optimiser.warmup": 1_000_000,
    "optimiser.cosine_length": 1000,
    "refine.iterations": 1_000_000,
    "fake.rank": 4096,
    "fake.alpha": 65_536,
    "fake.lr": 10,
    "fake.guidance_scale": 1000,
}
"""The largest number of each setting whose range would otherwise have no end."""
BAD = [
    *[(name, most + 1, f"at most {most:,}") for name, most in MUCH.items()],
    *[(name, 10**22, f"at most {most:,}") for name, most in MUCH.items()],
    *[(name, -1, "1") for name in ("iterations", "spectrum.period", "fake.rank")],
    *[(name, 0, "at least 1") for name in ("iterations", "spectrum.period", "spectrum.largest_factor", "fake.rank")],
    ("guidance_scale", -0.1, "0 or more"),
    *[(name, value, "between 0 and 1") for name in ("consistent_noise", "fake.anchor") for value in (-0.1, 1.1)],
    ("spectrum.free_below", -1, "0 or more"),
    *[(name, 1.1, "between 0 and 1") for name in ("spectrum.smallest_factor", "relevance.largest_strength")],
    *[("refine.factor", value, "between 1 and 8") for value in (0.5, 9.0)],
    ("refine.iterations", 0, "at least 1"),
    ("refine.t_max", 1000, "between 3 and 999"),
    *[(name, -0.1, "between 0 and 1") for name in ("styleid.strength", "styleid.gamma")],
    *[(f"{name}.strength", 1.1, "between 0 and 1") for name in ("freestyle", "instantstyle", "adain", "ghiasi")],
    *[(f"instantstyle.{name}", 4.1, "at most 4") for name in ("scale", "content_scale")],
    *[(f"gatys.{name}", -1.0, "0 or more") for name in ("content_weight", "style_weight")],
    *[(name, 101.0, "at most 100") for name in ("freestyle.backbone", "freestyle.skip")],
    *[("styleid.temperature", value, words) for value, words in ((0.0, "greater than 0"), (101.0, "at most 100"))],
    *[("sdedit.strength", value, "between 0 and 1") for value in (-0.1, 1.1)],
    ("style_strength", 4.1, "between -4 and 4"),
    ("style_strength", -4.1, "between -4 and 4"),
    *[("text_strength", value, "between -4 and 4") for value in (4.1, -4.1)],
    ("timesteps.t_min", 2, "between 3 and 999"),
    ("timesteps.t_max", 1000, "between 3 and 999"),
    ("relevance.strength", 1.1, "between 0 and 1"),
    ("relevance.strength", -0.1, "between 0 and 1"),
    ("relevance.upper_quantile", 0.0, "greater than 0 and at most 1"),
    ("relevance.upper_quantile", 1.1, "greater than 0 and at most 1"),
    ("spectrum.weight", -1e-9, "0 or more"),
    ("relevance.timesteps", -1, "0 or more"),
    ("optimiser.lr", 0.0, "greater than 0"),
    ("optimiser.weight_decay", -0.1, "0 or more"),
    ("optimiser.beta1", 1.0, "at least 0 and less than 1"),
    ("optimiser.beta2", -0.1, "at least 0 and less than 1"),
    ("optimiser.warmup", -1, "0 or more"),
    ("optimiser.warmup_fraction", 1.1, "between 0 and 1"),
    ("optimiser.cosine_length", -1.0, "0 or more"),
    ("fake.alpha", 0.0, "greater than 0"),
    ("fake.lr", -1.0, "greater than 0"),
    ("fake.guidance_scale", -1.0, "0 or more"),
    ("fake.t_min", 2, "between 3 and 999"),
    ("fake.t_max", 1000, "between 3 and 999"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_number_outside_its_range_is_refused(name: str, value: float, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_method(changed(MethodConfig(), name, value))
    assert str(caught.value).startswith(f"{name} must be ")
    assert str(caught.value).endswith(f"not {value!r}")
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", METHOD_RULES)
def test_every_range_ends_on_both_sides(name: str) -> None:
    for value in (-(10**30), 10**30, 10**5000, -1e300, 1e300):
        assert METHOD_RULES[name].broken_by(value)


@pytest.mark.parametrize(("name", "most"), MUCH.items())
def test_the_largest_number_is_in_range(name: str, most: int) -> None:
    assert METHOD_RULES[name].broken_by(most) is None


@pytest.mark.parametrize("name", METHOD_RULES)
def test_a_number_of_thousands_of_digits_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be ") as caught:
        check_method(changed(MethodConfig(), name, 10**5000))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", ["5", [5], True, {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^iterations must be a number, not "):
        check(SimpleNamespace(iterations=value), {"iterations": METHOD_RULES["iterations"]})


def documented(rule: Rule) -> str:
    """Return how the page of settings writes a range."""
    low = {"at least 1": "1", "0 or more": "0", "greater than 0": "above 0"}.get(rule.words)
    if low is not None:
        return f"{low}{', at most' if low == 'above 0' else ' to'} {rule.largest:,}"
    words = {"greater than 0 and at most 1": "above 0, at most 1", "at least 0 and less than 1": "0 to below 1"}
    return words.get(rule.words) or rule.words.removeprefix("between ").replace(" and ", " to ")


@pytest.mark.parametrize("name", METHOD_RULES)
def test_the_page_of_settings_states_every_range(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert row.split(" | ")[2] == documented(METHOD_RULES[name])


def test_a_guided_fake_score_cannot_be_shared() -> None:
    fake = replace(MethodConfig().fake, shared=True)
    with pytest.raises(ConfigError, match=r"fake\.shared needs fake\.guidance_scale of 1, not 4\.5"):
        check_method(replace(MethodConfig(), fake=fake))
    alone = replace(MethodConfig(), fake=replace(fake, guidance_scale=1.0))
    assert check_method(alone) == alone


def test_every_rule_is_tried() -> None:
    assert {name for name, _, _ in BAD} == set(METHOD_RULES)


@pytest.mark.parametrize("style", ["watercolor", "van-gogh"])
def test_a_run_without_a_method_has_the_preset_of_its_model_and_style(style: str) -> None:
    run = RunConfig(styles=(StyleChoice(name=style),))
    assert run.method == presets.preset_for("mini", None, None, [style])
    assert run.preset.startswith("mini's own")
    assert RunConfig(styles=(StyleChoice(name=style),), model="owner/other").method == presets.load("balanced")
    assert replace(run, method=MethodConfig()).method == MethodConfig()


def test_every_number_has_a_rule() -> None:
    tables = to_table(replace(MethodConfig(), text_strength=0.5))
    flat = {f"{part}.{key}": x for part, t in tables.items() if isinstance(t, dict) for key, x in t.items()}
    numbers = {name for name, x in {**tables, **flat}.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    assert numbers == set(METHOD_RULES)


def fractions() -> list[str]:
    """Return the names of the numbers that may be fractions, and so NaN or infinite."""
    tables = to_table(replace(MethodConfig(), text_strength=0.5))
    flat = {f"{part}.{key}": x for part, t in tables.items() if isinstance(t, dict) for key, x in t.items()}
    return [name for name in METHOD_RULES if isinstance({**tables, **flat}[name], float)]


@pytest.mark.parametrize("name", fractions())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be a finite number"):
        check_method(changed(MethodConfig(), name, value))


@pytest.mark.parametrize("part", ["timesteps", "fake"])
def test_a_range_of_timesteps_that_is_too_narrow_is_refused(part: str) -> None:
    method = changed(changed(MethodConfig(), f"{part}.t_min", 300), f"{part}.t_max", 301)
    with pytest.raises(ConfigError, match=rf"^{part} needs t_max of at least t_min \+ 2") as caught:
        check_method(method)
    assert caught.value.hint == "widen the range of timesteps"
    check_method(changed(method, f"{part}.t_max", 302))


FORMATS = ["{style:>99999999999}", "{style:{caption}}", "{style.__class__}", "{style!r}", "{caption:.3}", "}", "{0}"]


@pytest.mark.parametrize("name", ["target_prompt", "relevance.edit_prompt"])
@pytest.mark.parametrize("template", ["{artist}", "{}", "{style", "{style.a}", "{style[0]}", "{style[a]}", *FORMATS])
def test_a_prompt_template_that_cannot_be_filled_is_refused(name: str, template: str) -> None:
    with pytest.raises(ConfigError, match=r"must only use \{style\} and \{caption\}") as caught:
        check_method(changed(MethodConfig(), name, template))
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": 1.5}, "content must be between 0 and 1, not 1.5"),
        ({"keep_colours": -0.5}, "keep_colours must be between 0 and 1, not -0.5"),
        ({"mask_feather": -1}, "mask_feather must be 0 or more, not -1"),
        ({"mask_feather": 5000}, "mask_feather must be at most 4,096, not 5000"),
        ({"seed": -1}, "seed must be between 0 and 2^63 - 1, not -1"),
        ({"seed": 2**63}, "seed must be between 0 and 2^63 - 1, not 9223372036854775808"),
        ({"size": 63}, "size must be between 64 and 8192, not 63"),
        ({"compile": "on", "memory": "low"}, "--compile on and --memory low cannot be combined"),
        ({"style_weights": "merged", "memory": "low"}, "--style-weights merged and --memory low cannot be combined"),
        ({"compile": "graphs", "memory": "offload"}, "--compile graphs and --memory offload cannot be combined"),
        ({"preview_model": "\udcff"}, "preview_model must be Unicode text, not '\\udcff'"),
        ({"tile": 63}, "tile must be 0 or between 64 and 8192, not 63"),
        ({"styles": ()}, "a run needs at least one style"),
        ({"styles": (StyleChoice(name="a"),) * 33}, "a run has at most 32 styles, not 33"),
        ({"caption": "a" * 10_001}, "prompt must have at most 10,000 letters, not 10,001"),
        (
            {"method": MethodConfig(target_prompt="a" * 10_001)},
            "target_prompt must have at most 10,000 letters, not 10,001",
        ),
        ({"styles": (StyleChoice(name="a", weight=5.0),)}, "style weight must be between -4 and 4, not 5.0"),
        ({"method": MethodConfig(iterations=0)}, "iterations must be at least 1, not 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run(run_of(**changes))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "changes", [{}, {"seed": 2**63 - 1}, {"seed": 0}, {"size": 64}, {"size": 8192}, {"content": 1.0}]
)
def test_a_run_at_the_edge_of_its_ranges_is_allowed(changes: dict[str, Any]) -> None:
    run = run_of(**changes)
    assert check_run(run) is run


# Presets


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_every_preset_is_within_range(name: str, method: Any) -> None:
    config = presets.load(name, method)
    assert check_method(config) is config
    assert config.method == method


def test_the_reference_preset_is_the_released_code() -> None:
    assert presets.load("reference") == MethodConfig(text_encoder_lora=False, sample_posterior=True)


def test_the_reference_constants_are_those_of_the_specification() -> None:
    m = presets.load("reference")
    assert (m.method, m.iterations, m.guidance_scale, m.weight) == ("sms", 500, 4.5, "posterior")
    assert (m.timesteps.sampler, m.timesteps.t_min, m.timesteps.t_max) == ("narrowing", 21, 499)
    assert (m.optimiser.name, m.optimiser.lr, m.optimiser.weight_decay) == ("adamw", 0.1, 0.01)
    assert (m.optimiser.warmup, m.optimiser.cosine_length) == (100, 1.5)
    assert (m.fake.rank, m.fake.alpha, m.fake.lr, m.fake.targets) == (8, 32, 1e-3, ("to_q", "to_v"))
    assert (m.fake.guidance_scale, m.fake.weight) == (4.5, "alpha_bar_squared")
    assert (m.spectrum.weight, m.spectrum.distance, m.spectrum.period) == (5e-4, "l1", 500)
    assert (m.relevance.reduction, m.relevance.upper_quantile) == ("mean_then_absolute", 1)
    assert (m.style_strength, m.sample_posterior) == (0.8, True)


def test_the_papers_text_differs_in_distance_and_order() -> None:
    paper = presets.load("paper")
    assert (paper.spectrum.distance, paper.relevance.reduction) == ("l2", "absolute_then_mean")


def test_vsd_of_the_reference_is_not_narrowed() -> None:
    vsd = presets.load("reference", "vsd")
    assert (vsd.timesteps.sampler, vsd.timesteps.t_max, vsd.fake.t_max) == ("uniform", 979, 979)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="no preset named 'referense'") as caught:
        presets.load("referense")
    assert caught.value.hint == "did you mean 'reference'?"


def test_swift_is_balanced_with_fewer_passes() -> None:
    balanced, swift = presets.load("balanced"), presets.load("swift")
    fake = replace(balanced.fake, guidance_scale=1.0, shared=True)
    assert swift == replace(balanced, fake=fake, relevance=replace(balanced.relevance, timesteps=8))
    assert presets.load("swift", "dds").timesteps == presets.load("balanced", "dds").timesteps


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


RECORDED = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in RECORDED for method in presets.METHODS])
def test_every_preset_holds_the_recorded_constants(name: str, method: Any) -> None:
    """The record has what differs from the defaults of `MethodConfig`."""
    found = presets.preset_for("mini", None, method) if name == "mini's own" else presets.load(name, method)
    defaults = flat(to_table(MethodConfig()))
    assert {key: x for key, x in flat(to_table(found)).items() if x != defaults[key]} == RECORDED[name][method]


def test_every_preset_of_the_package_is_recorded() -> None:
    assert set(RECORDED) == {*presets.names(), "mini's own"}


def test_the_papers_preset_holds_only_what_differs_from_the_reference() -> None:
    table = load_toml(presets.find("paper"))
    reference = load_toml(presets.find("reference"))
    assert table["extends"] == "reference"
    written = flat({key: value for key, value in table.items() if key not in ("about", "extends")})
    assert all(flat(reference)[key] != value for key, value in written.items())


def test_a_preset_extends_another_table_by_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "swift"\niterations = 7\n[spectrum]\nweight = 1e-3\n[methods.vsd]\niterations = 9\n')
    mine, vsd, swift = presets.load(str(path)), presets.load(str(path), "vsd"), presets.load("swift")
    assert mine == replace(swift, iterations=7, spectrum=replace(swift.spectrum, weight=1e-3))
    assert vsd.iterations == 9
    assert vsd.timesteps == presets.load("swift", "vsd").timesteps


def test_a_preset_that_extends_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.toml"
    path.write_text(f'extends = "{path}"\n')
    with pytest.raises(ConfigError, match="extends must name another preset"):
        presets.load(str(path))


def test_a_preset_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("iterations = 7\n[methods.dds]\niterations = 9\n", encoding="utf-8")
    assert presets.load(str(file)) == MethodConfig(iterations=7)
    assert presets.load(str(file), "dds") == MethodConfig(method="dds", iterations=9)


@pytest.mark.parametrize("text", ["[[", "methods.xyz = {}", "[methods.sms]\nx = 1"])
def test_a_file_that_is_no_preset_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        presets.load(str(file))


@pytest.mark.parametrize("chosen", [None, "vsd", "dds"])
@pytest.mark.parametrize("said", ["sms", "vsd"])
def test_a_methods_table_that_sets_the_method_is_refused(tmp_path: Path, said: str, chosen: Any) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'[methods.vsd]\nmethod = "{said}"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        presets.load(str(file), chosen)
    assert str(caught.value) == f"[methods.vsd] cannot set method, got '{said}'"
    assert "delete that line" in (caught.value.hint or "")


def test_a_methods_table_that_sets_the_method_is_refused_in_a_preset_that_is_extended(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text('[methods.vsd]\nmethod = "sms"\n', encoding="utf-8")
    (tmp_path / "above.toml").write_text(f'extends = "{tmp_path / "below.toml"}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\[methods\.vsd\] cannot set method"):
        presets.load(str(tmp_path / "above.toml"), "vsd")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = .5", "Invalid value"),
        (b"a = \xff", "it is not UTF-8 text"),
        (b"a = " + b"1" * 5000, "a number has too many digits"),
        (b"a = " + b"[" * 3000, "too many nested brackets"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"as TOML: .*{reason}") as caught:
        load_toml(tmp_path / "own.toml")
    assert str(tmp_path / "own.toml") in str(caught.value)


def test_a_toml_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=r"as TOML: [A-Z][a-z ]+$"):
            load_toml(path)


def test_merging_tables_changes_neither() -> None:
    base, changes = {"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 5}, "b": {"z": 6}}
    assert merge_tables(base, changes) == {"a": {"x": 1, "y": 5}, "b": {"z": 6}}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}
    assert changes == {"a": {"y": 5}, "b": {"z": 6}}


# Prompts


@pytest.mark.parametrize(
    ("template", "caption", "expected"),
    [
        ("{style}, {caption}", "a red house", "ink, a red house"),
        ("{style}, {caption}", "", "ink"),
        ("{caption}, {style}", "", "ink"),
        ("Turn into {style}", "a red house", "Turn into ink"),
        ("{style}, {caption}", "{braces} stay", "ink, {braces} stay"),
        ("{{literal}} {style}", "", "{literal} ink"),
        ("{style}, {caption}, detailed", "", "ink, detailed"),
        ("{caption}, {style}, ", " ", "ink"),
    ],
)
def test_prompt_templates(template: str, caption: str, expected: str) -> None:
    method = MethodConfig(target_prompt=template, relevance=RelevanceConfig(edit_prompt=template))
    prompts = Prompts.of(method, "ink", [caption])
    assert prompts.target == prompts.edit == [expected]
    assert prompts.caption == [caption]


def test_every_picture_has_prompts_of_its_own() -> None:
    prompts = Prompts.of(MethodConfig(), "ink", ["a", "b"])
    assert prompts.target == ["ink, a", "ink, b"]
    assert prompts.edit == ["Turn into ink"] * 2


# The content knob


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_the_middle_leaves_a_method_identity(name: str, method: Any) -> None:
    config = presets.load(name, method)
    assert with_content(config, 0.5) == config


def test_no_content_switches_spectrum_and_map_off() -> None:
    config = with_content(MethodConfig(), 0.0)
    assert make_spectrum(config.spectrum) is no_spectrum
    assert make_relevance(config.relevance) == UniformRelevance()


@given(contents, contents)
def test_more_content_never_holds_less(a: float, b: float) -> None:
    low, high = (with_content(MethodConfig(), c) for c in sorted((a, b)))
    assert low.spectrum.weight <= high.spectrum.weight
    assert low.relevance.strength <= high.relevance.strength


@given(st.floats(0.001, 0.999))
def test_a_little_more_content_holds_more(content: float) -> None:
    for smallest in (0.0, 0.25):
        spectrum = SpectrumConfig(smallest_factor=smallest, largest_factor=8)
        assert spectrum_factor(content, spectrum) < spectrum_factor(content + 0.001, spectrum)


@given(contents)
def test_the_knob_keeps_a_method_within_range(content: float) -> None:
    check_method(with_content(MethodConfig(), content))


def test_the_knob_by_hand() -> None:
    knob = (0, 0.25, 0.5, 0.75, 1)
    assert [spectrum_factor(c, SpectrumConfig()) for c in knob] == [0, 0.5, 1, 8, 64]
    graded = SpectrumConfig(smallest_factor=0.25, largest_factor=4.0)
    assert [spectrum_factor(c, graded) for c in knob] == [0.25, 0.5, 1, 2, 4]
    assert [relevance_strength(c, RelevanceConfig()) for c in knob] == [0, 0.5, 1, 1, 1]
    assert [relevance_strength(c, RelevanceConfig(strength=0.2, largest_strength=0.8)) for c in knob] == pytest.approx(
        [0, 0.1, 0.2, 0.5, 0.8]
    )
    assert [styleid_gamma(c, StyleIdConfig(gamma=0.75)) for c in knob] == [0, 0.375, 0.75, 0.875, 1]
    assert [sampling_strength(c, 0.75) for c in knob] == [1, 0.875, 0.75, 0.375, 0]
    weights = [gatys_weights(c, GatysConfig(content_weight=2.0, style_weight=8.0)) for c in knob]
    assert [each.content_weight for each in weights] == [0, 0.125, 2, 2, 2]
    assert [each.style_weight for each in weights] == [8, 8, 8, 0.5, 0]


def test_a_strength_is_of_rivals_alone() -> None:
    sdedit = replace(MethodConfig(), method="sdedit")
    assert with_strength(sdedit, 0.3).sdedit.strength == 0.3
    assert with_strength(replace(sdedit, method="styleid"), 0.3).styleid.strength == 0.3
    assert with_strength(MethodConfig(), None) == MethodConfig()
    assert with_strength(replace(sdedit, method="adain"), 0.3).adain.strength == 0.3
    words = "sdedit, styleid, freestyle, instantstyle, adain and ghiasi"
    for method in ("sms", "gatys"):
        with pytest.raises(ConfigError, match=f"strength is of the methods {words}, not of {method}"):
            with_strength(replace(MethodConfig(), method=method), 0.3)


def test_the_knob_moves_nothing_else() -> None:
    config = with_content(MethodConfig(), 0.9)
    back = replace(config, spectrum=SpectrumConfig(), relevance=RelevanceConfig(), sdedit=SdeditConfig())
    back = replace(back, styleid=StyleIdConfig(), freestyle=FreestyleConfig(), instantstyle=InstantStyleConfig())
    back = replace(back, gatys=GatysConfig(), adain=AdainConfig(), ghiasi=GhiasiConfig())
    assert back == MethodConfig()


def test_a_noise_kept_for_the_run_needs_a_fake_score_trained_apart() -> None:
    method = replace(MethodConfig(), consistent_noise=0.5, fake=FakeConfig(shared=True, guidance_scale=1.0))
    with pytest.raises(ConfigError, match=r"fake\.shared needs consistent_noise of 0, not 0\.5") as caught:
        check_method(method)
    assert "fake.shared=false" in (caught.value.hint or "")


@pytest.fixture
def own_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the constants of the only bundled style lie, a copy of ink-drawing."""
    (tmp_path / "ink-drawing.safetensors").touch()
    known = {"ink-drawing": tmp_path / "ink-drawing.safetensors"}
    monkeypatch.setattr(presets, "bundled_style", known.get)
    constants = tmp_path / "ink-drawing.toml"
    constants.write_text("iterations = 7\n[spectrum]\nfree_below = 2\n", encoding="utf-8")
    return constants


def test_a_bundled_style_may_bring_constants_of_its_own(own_constants: Path) -> None:
    plain = presets.preset_for("mini", None, None)
    found = presets.preset_for("mini", None, None, ["ink-drawing"])
    assert found == replace(plain, iterations=7, spectrum=replace(plain.spectrum, free_below=2))
    assert presets.origin("mini", None, ["ink-drawing"]) == "mini's own with those of ink-drawing"


@pytest.mark.parametrize("styles", [[], ["oil-painting"], ["ink-drawing", "oil-painting"]])
def test_other_styles_and_mixtures_have_the_models_preset(own_constants: Path, styles: list[str]) -> None:
    assert presets.preset_for("mini", None, None, styles) == presets.preset_for("mini", None, None)
    assert presets.origin("mini", None, styles) == "mini's own"


def test_a_preset_that_is_asked_for_is_taken_identity(own_constants: Path) -> None:
    assert presets.preset_for("mini", "swift", None, ["ink-drawing"]) == presets.load("swift")
    assert presets.origin("mini", "swift", ["ink-drawing"]) == "swift"


def test_constants_of_a_style_that_are_unknown_are_refused(own_constants: Path) -> None:
    own_constants.write_text("strokes = 3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown setting 'strokes'"):
        presets.preset_for("mini", None, None, ["ink-drawing"])


def test_constants_of_a_style_cannot_set_the_method(own_constants: Path) -> None:
    own_constants.write_text('method = "sds"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot set method, got 'sds'"):
        presets.preset_for("mini", None, "vsd", ["ink-drawing"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a." * 200 + b"a = 1", "a name has too many dots"),
        (b"a = 1\n" * 100_000, "it has more than 262,144 bytes"),
        (b"a = " + b"{a = " * 50 + b"1" + b"}" * 50, "too many nested brackets"),
        (b"\0\0", "Invalid"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff", "it is a picture, not a TOML file"),
        (b"<html>", "it is a web page, not a TOML file: the download was refused or needs a login"),
        (b'{"a": 1}', "it is a JSON file, not a TOML file"),
    ],
)
def test_a_hostile_toml_file_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "own.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"as TOML: .*{reason}"):
        load_toml(tmp_path / "own.toml")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-of-this-name/x", "", "."])
def test_a_name_that_no_file_can_have_is_no_preset(name: str) -> None:
    with pytest.raises(ConfigError, match="no preset named"):
        presets.load(name)


def test_a_device_is_no_settings_file() -> None:
    with pytest.raises(ConfigError, match="it is a device or pipe"):
        load_toml(Path("/dev/zero"))


def test_a_long_chain_of_presets_is_refused(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{tmp_path / str(number + 1)}.toml"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="extends must name another preset"):
        presets.load(str(tmp_path / "0.toml"))


@pytest.mark.parametrize("value", ["x" * 100_000, [1] * 100_000, 10**5000], ids=["letters", "entries", "digits"])
def test_a_huge_value_is_not_repeated_in_the_message(value: Any) -> None:
    for table in ({"method": value}, {"fake": value}, {"fake": {"shared": value}}, {"sample_posterior": value}):
        with pytest.raises(ConfigError) as caught:
            overlay(MethodConfig(), table)
        assert len(str(caught.value)) + len(caught.value.hint or "") < 700


def test_a_preset_states_which_models_it_is_for(tmp_path: Path) -> None:
    for name in presets.names():
        assert presets.suited_models(name) == "large"
        assert "large models" in str(presets.unsuited("mini", name))
        assert presets.unsuited("owner/model", name) is None
    assert presets.unsuited("mini", None) is None
    assert "bundled model" in str(presets.unsuited("owner/model", str(presets.BUNDLED / "mini" / "preset.toml")))

    own = tmp_path / "own.toml"
    own.write_text('extends = "balanced"\nfor_models = "mini"\n', encoding="utf-8")
    assert presets.unsuited("mini", str(own)) is None
    assert presets.load(str(own)) == presets.load("balanced")
    own.write_text("iterations = 3\n", encoding="utf-8")
    assert presets.unsuited("mini", str(own)) is presets.unsuited("owner/model", str(own)) is None
    own.write_text('for_models = "sd"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="for_models must be one of large, mini, not 'sd'"):
        presets.suited_models(str(own))
