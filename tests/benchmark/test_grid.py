"""The grid: which runs there are, and what each has of a preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stylescore.benchmark.grid import (
    ABLATIONS,
    LABELS,
    Plan,
    Setting,
    file_name,
    make_rows,
    make_seeds,
    make_variants,
    repeated,
    require_different,
    style_label,
    with_knob,
)
from stylescore.config.method import ONE_PICTURE
from stylescore.config.presets import METHODS, load, preset_for
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import ConfigError

RUN = RunConfig(styles=(StyleChoice(name="watercolor"),))


def test_every_method_of_the_program_can_be_compared() -> None:
    assert set(METHODS) <= set(LABELS)
    assert [variant.method for variant in make_variants(METHODS, ())] == list(METHODS)


def test_sms_and_its_ablations_come_first() -> None:
    keys = [variant.key for variant in make_variants(["dds", "sms", "dds", "sdedit-edges"], ["spectrum", "neither"])]
    assert keys == ["sms", "sms-spectrum", "sms-neither", "dds", "sdedit-edges"]


def test_ablations_stand_at_the_centre_of_the_knob_alone() -> None:
    rows = make_rows(make_variants(["sms", "sdedit"], ["uniform"]), [0.2, 0.6, 0.9])
    assert [row.key for row in rows] == [
        *("sms-0.6", "sms-uniform-0.6", "sdedit-0.6"),
        *("sms-0.2", "sms-0.9", "sdedit-0.2", "sdedit-0.9"),
    ]
    assert [row.is_central for row in rows] == [True] * 3 + [False] * 4


def test_the_centre_is_the_preset() -> None:
    setting = Setting(run=RUN, style_picture=Path("wet.png"))
    for row in make_rows(make_variants(METHODS, ()), [0.5]):
        run = setting.configure(row, 3)
        styles = [] if row.variant.method in ONE_PICTURE else ["watercolor"]
        assert run.method == preset_for("mini", None, row.variant.method, styles)
        assert (run.content, run.seed) == (0.5, 3)


def test_the_knob_of_methods_without_one_is_their_length() -> None:
    vsd = replace(load("balanced", "vsd"), iterations=100)
    assert [with_knob(vsd, content)[0].iterations for content in (0, 0.25, 0.5, 0.75, 1)] == [200, 150, 100, 50, 1]
    assert {with_knob(vsd, content)[1] for content in (0, 0.25, 1)} == {0.5}
    for method in ("sms", "sdedit"):
        own = load("balanced", method)
        assert with_knob(own, 0.2) == (own, 0.2)


def test_ablations_leave_out_what_they_say() -> None:
    setting = Setting(run=replace(RUN, model="owner/large"), preset="balanced")
    found = {variant.key: setting.method(variant) for variant in make_variants(["sms"], list(ABLATIONS))}
    full = found["sms"]
    assert found["sms-spectrum"] == replace(full, spectrum=replace(full.spectrum, weight=0.0))
    assert found["sms-relevance"].relevance.strength == 0
    assert found["sms-neither"].spectrum.weight == found["sms-neither"].relevance.strength == 0
    assert found["sms-uniform"] == replace(full, timesteps=replace(full.timesteps, sampler="uniform"))
    assert repeated(setting, make_variants(["sms"], list(ABLATIONS))) == {}


def test_an_ablation_of_what_the_preset_lacks_is_left_out() -> None:
    """The bundled model's own preset has no relevance map at the centre of the knob, and annealed timesteps."""
    variants = make_variants(["sms"], list(ABLATIONS))
    run = RunConfig(styles=(StyleChoice(name="van-gogh"),))
    plan = Plan.of(Setting(run=run), variants, [0.5], [0], Path("out"))
    assert plan.same == {"sms-relevance": "sms", "sms-neither": "sms-spectrum", "sms-annealed": "sms"}
    assert [row.key for row in plan.rows] == ["sms-0.5", "sms-spectrum-0.5", "sms-uniform-0.5"]
    with_map = Setting(run=run, constants={"relevance": {"strength": 0.5}})
    own_map = Setting(run=RUN)
    assert set(Plan.of(own_map, variants, [0.5], [0], Path("out")).same) == {"sms-annealed"}
    assert set(Plan.of(with_map, variants, [0.5], [0], Path("out")).same) == {"sms-annealed"}


def test_a_plan_has_every_seed() -> None:
    plan = Plan.of(Setting(run=RUN), make_variants(["sms", "dds"], ()), [0.5], make_seeds(4, 2), Path("out"))
    assert [(row.key, seed, run.seed) for row, seed, run in plan.cells()] == [
        *(("sms-0.5", 4, 4), ("dds-0.5", 4, 4)),
        *(("sms-0.5", 5, 5), ("dds-0.5", 5, 5)),
    ]
    assert plan.parent(plan.rows[0], 4) == Path("out/sms-0.5-seed4")


def test_a_control_reaches_its_runs_alone() -> None:
    setting = Setting(run=replace(RUN, control_model="folder"))
    rows = make_rows(make_variants(["sms", "sdedit-edges"], ()), [0.5])
    plain, held = (setting.configure(row, 0) for row in rows)
    assert (plain.control, plain.control_model) == (None, None)
    assert (held.control, held.control_model, held.method.method) == ("edges", "folder", "sdedit")


def test_a_method_that_takes_a_picture_has_one_and_no_adapter() -> None:
    row = make_rows(make_variants(["styleid"], ()), [0.5])[0]
    run = Setting(run=RUN, style_picture=Path("wet.png")).configure(row, 0)
    assert (run.styles, run.style_image) == ((), "wet.png")
    with pytest.raises(ConfigError, match="styleid takes the style from a picture, and there is none of 'watercolor'"):
        Setting(run=RUN).configure(row, 0)


def test_names_of_styles() -> None:
    assert style_label("/some/where/my style.safetensors") == "my style"
    assert style_label("owner/name:file") == "name:file"
    assert file_name("name:fi le v1.5") == "name_fi_le_v1.5"
    with pytest.raises(ConfigError, match="two styles of a benchmark are called 'a'"):
        require_different(["x/a.safetensors", "b", "y/a.safetensors"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_variants(["smss"], ()), "a benchmark has no method 'smss'"),
        (lambda: make_variants(["sms"], ["spectra"]), "a benchmark has no ablation 'spectra'"),
        (lambda: make_variants((), ()), "a benchmark needs at least one method"),
        (lambda: make_variants(["dds"], ["spectrum"]), "ablations are of sms, which is not among the methods"),
        (lambda: make_rows(make_variants(["sms"], ()), [0.5, 1.5]), "--knob must be numbers from 0 to 1, not 1.5"),
        (lambda: make_rows(make_variants(["sms"], ()), []), "--knob must be numbers from 0 to 1, not nothing"),
        (lambda: make_seeds(0, 0), "--seeds must be from 1 to 100, not 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == message
    assert caught.value.hint
