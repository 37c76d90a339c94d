"""Settings of the page to a run, and back from the record in a finished picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylescore.config.run import StyleChoice
from stylescore.errors import ConfigError, StyleError
from stylescore.studio.folder import safe_name
from stylescore.studio.settings import (
    Settings,
    has_mask,
    make_job_run,
    photo_hash,
    read_settings,
    settings_of_record,
)
from stylescore.studio.style_list import StyleList

SETTINGS = Settings(
    style="pencil-sketch",
    content=0.65,
    caption='a "cat", \\ on a sofa ✓',
    style_prompt="graphite",
    size=192,
    seed=11,
    weight=0.7,
    mixed={"watercolor": 0.4, "ink-drawing": -0.2},
    negative_prompt="blur",
    keep_colours=0.3,
    mask="0123456789abcdef",
    mask_feather=5,
    constants={"iterations": 7, "guidance_scale": 4.0, "fake.targets": ["to_q"], "style_strength": 0.5},
)


WRONG = (
    {"style": "a", "mixed": []},
    {"style": "a", "mixed": {"b": "1"}},
    {"style": "a", "mixed": {"a": 1.0}},
    {"style": "a", "mixed": {str(number): 1.0 for number in range(8)}},
    {"style": "a", "mask": "../mask"},
    {"style": "a", "keep_colours": "1"},
)


def record_of(settings: Settings, **changes: Any) -> str:
    """Return the record that the picture of these settings holds."""
    from stylescore.runs.job import StylizeSettings, public_record
    from stylescore.runs.record import Record

    run = replace(make_job_run(settings, StyleList(), "mini"), **changes)
    own = StylizeSettings(photo="/home/someone/photos/cat.jpg", style_prompt="pencil", run=run)
    hashes = {"photo": "ab" * 32}
    if settings.mask is not None:
        own, hashes = replace(own, mask="/home/someone/mask.png"), {**hashes, "mask": settings.mask + "0" * 48}
    return public_record(Record(command="stylize", hashes=hashes, settings=own))


def test_a_finished_picture_brings_back_what_made_it() -> None:
    text = record_of(SETTINGS)
    found, notes = settings_of_record(text, StyleList(), "mini")
    assert found == replace(SETTINGS, constants={**SETTINGS.constants, "fake.targets": ["to_q"]})
    assert notes == []
    assert photo_hash(text) == "ab" * 32
    assert make_job_run(found, StyleList(), "mini") == make_job_run(SETTINGS, StyleList(), "mini")


def test_untouched_settings_come_back_untouched() -> None:
    found, _ = settings_of_record(record_of(Settings(style="watercolor")), StyleList(), "mini")
    assert found == Settings(style="watercolor")


def test_what_cannot_be_repeated_is_said() -> None:
    styles = (StyleChoice(name="watercolor", weight=0.5), StyleChoice(name="van-gogh"))
    text = record_of(Settings(style="watercolor"), styles=styles, model="/models/other")
    found, notes = settings_of_record(text, StyleList(), "mini")
    assert found.weights == {"watercolor": 0.5, "van-gogh": 1.0}
    assert notes == ["it was made with the model other, this studio has mini"]


def test_a_style_that_is_not_there_is_named_and_the_others_come_back() -> None:
    styles = (StyleChoice(name="gone.safetensors"), StyleChoice(name="van-gogh", weight=0.5))
    text = record_of(Settings(style="watercolor"), styles=styles)
    found, notes = settings_of_record(text, StyleList(), "mini")
    assert found.weights == {"van-gogh": 0.5}
    assert notes == ["it also had the style gone.safetensors, which this studio does not have"]


def test_what_the_page_does_not_offer_is_said() -> None:
    text = record_of(Settings(style="watercolor"), clip_skip=2, vae="/models/vae")
    _, notes = settings_of_record(text, StyleList(), "mini")
    assert notes == ["it also had vae, clip_skip, which this page does not offer"]
    assert not has_mask(text)
    assert has_mask(record_of(SETTINGS))


def test_a_style_file_of_the_owners_is_found_by_its_name(parity: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes((parity / "style_lora_kohya.safetensors").read_bytes())
    style_list = StyleList([tmp_path])
    run = make_job_run(Settings(style="mine"), style_list, "mini")
    assert run.styles[0].name == str(tmp_path / "mine.safetensors")
    text = record_of(Settings(style="watercolor"), styles=(StyleChoice(name="mine.safetensors"),))
    assert settings_of_record(text, style_list, "mini")[0].style == "mine"
    with pytest.raises(StyleError, match="no style 'mine'"):
        settings_of_record(text, StyleList(), "mini")


def test_settings_of_the_wrong_kind_are_refused() -> None:
    for table in (None, [], {"style": "a", "other": 1}, {"style": "a", "constants": []}, {"content": 1.0}, *WRONG):
        with pytest.raises(ConfigError):
            read_settings(table)
    assert read_settings({"style": "a", "size": None, "content": 1}) == Settings(style="a", content=1.0)


@given(st.text(max_size=300))
def test_a_safe_name_is_one_plain_part_of_a_path(name: str) -> None:
    found = safe_name(name)
    assert found
    assert Path(found).name == found
    assert not found.startswith(".")
    assert len(found.encode()) <= 120
    assert "/" not in found
    assert "\\" not in found
