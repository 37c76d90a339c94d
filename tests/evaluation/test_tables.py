"""Figures as tables: within 80 columns, as Markdown, CSV and plain values."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path

import pytest

from stylescore.catalog.places import Found
from stylescore.evaluation.catalogue import METRICS, Score
from stylescore.evaluation.run import Report, Skipped
from stylescore.evaluation.tables import (
    format_csv,
    format_differences,
    format_markdown,
    format_number,
    format_terminal,
    to_values,
)
from stylescore.metrics.intervals import Interval

FOLDERS = ("first", "second", "a-very-long-name-of-a-folder-of-results", "fourth|x")


def report(*folders: str) -> Report:
    scores = {
        "lpips-alex": Score(0.3264, Interval(0.3001, 0.3512), (0.3, 0.35)),
        "fid": Score(123456.7, None),
        "csd": Score(-0.00001234, Interval(-1, 1)),
    }
    names = folders or FOLDERS
    found = {"alexnet": Found(Path("/x/a.pth"), "a.pth")}
    return Report(dict.fromkeys(names, scores), [Skipped("cfsd", "no", "do")], found, dict.fromkeys(names, 40), 25)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.32641, "0.326"),
        (18.686, "18.69"),
        (123.44, "123.4"),
        (99999.4, "99999"),
        (1.5e-7, "1.500e-07"),
        (0.05319, "0.053"),
        (-0.00532, "-0.0053"),
        (0.00012, "0.00012"),
        (-0.00006882, "-0.000069"),
    ],
)
def test_numbers_have_four_digits_and_small_ones_two_that_are_not_zero(value: float, text: str) -> None:
    assert format_number(value) == text


def test_the_terminals_table_keeps_to_80_columns_and_shows_every_folder_and_n() -> None:
    lines = format_terminal(report(), METRICS)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.count("0.326 [0.300, 0.351]") == 4
    assert text.count("metric") >= 2
    assert "N = 40 pairs in first" in text
    assert "N = 25 pictures of the style" in text


def test_columns_stand_below_each_other() -> None:
    lines = format_terminal(report("first", "second"), METRICS)
    head = next(line for line in lines if line.startswith("metric"))
    row = next(line for line in lines if line.startswith("lpips-alex"))
    assert head.index("second") == row.rindex("0.326")
    assert head.index("better") == row.index("smaller")


def test_markdown_and_csv_hold_the_same_figures() -> None:
    lines = format_markdown(report(), METRICS).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "| `fid` | FID, Inception of ImageNet | smaller | 123457 |" in rows[-2]
    (first, *_) = csv.DictReader(io.StringIO(format_csv(report(), METRICS)))
    assert (first["folder"], first["metric"], first["value"], first["pairs"]) == ("first", "lpips-alex", "0.3264", "40")


def test_values_are_json_and_say_what_was_left_out(tmp_path: Path) -> None:
    made = report("first")
    (tmp_path / "a.pth").write_bytes(b"weights")
    made.weights["alexnet"] = Found(tmp_path / "a.pth", "a.pth")
    values = json.loads(json.dumps(to_values(made, METRICS)))
    assert values["folders"]["first"]["metrics"]["fid"]["interval"] is None
    assert values["folders"]["first"]["metrics"]["fid"]["depends_on_n"] is True
    assert values["skipped"] == [{"metric": "cfsd", "reason": "no", "hint": "do"}]
    digest = hashlib.sha256(b"weights").hexdigest()
    assert values["weights"] == {"alexnet": {"origin": "a.pth", "sha256": digest}}


def test_only_differences_beyond_chance_are_said() -> None:
    found = {
        "b": {
            "csd": {"value": 0.2, "p": 0.04, "is_better": True},
            "cfsd": {"value": 0.2, "p": 0.05, "is_better": False},
        }
    }
    assert format_differences(found, "a") == ["b is better than a in csd: difference 0.200, beyond chance"]
