"""Figures over all styles, of figures that are written out here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stylescore.benchmark.grid import Row, make_rows, make_variants
from stylescore.benchmark.pooling import pool_styles
from stylescore.benchmark.report import Benchmark, to_text
from stylescore.benchmark.results import Picture, StyleResults
from stylescore.evaluation.catalogue import METRICS, Sampling, Score
from stylescore.evaluation.run import Report
from stylescore.runs.costs import Cost

SAMPLING = Sampling(200, 0)
ROWS = make_rows(make_variants(["sms", "dds"], ["uniform"]), [0.5])
PHOTOS = tuple("abcdef")


def _results(style: str, figures: dict[str, list[float]], distances: dict[str, float], **more: object) -> StyleResults:
    """Return results of a style whose photos have figures of `lpips-alex`, and whose sets have those of `fid`."""
    scores = {
        key: {"lpips-alex": Score(sum(values) / len(values), None, tuple(values)), "fid": Score(distances[key], None)}
        for key, values in figures.items()
    }
    cost = Cost(seconds=2.0, forward_passes=10, trained_passes=0, memory=None, device="cpu")
    pictures = [
        Picture(row=key, photo=Path(f"{name}.png"), seed=0, path=Path("picture.png"), cost=cost)
        for key in figures
        for name in PHOTOS
    ]
    return StyleResults(
        style=style,
        rows=[row for row in ROWS if row.key in figures],
        pictures=pictures,
        report=Report(scores, [], {}, {key: len(values) for key, values in figures.items()}, 10),
        metrics={name: METRICS[name] for name in ("lpips-alex", "fid")},
        differences={},
        photos={key: {"lpips-alex": dict(zip(PHOTOS, values, strict=True))} for key, values in figures.items()},
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def styles() -> list[StyleResults]:
    first = {"sms-0.5": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "sms-uniform-0.5": [0.3] * 6, "dds-0.5": [0.0] * 6}
    second = {"sms-0.5": [0.3] * 6, "dds-0.5": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
    return [
        _results("oil", first, {"sms-0.5": 10.0, "sms-uniform-0.5": 14.0, "dds-0.5": 30.0}),
        _results("ink", second, {"sms-0.5": 20.0, "dds-0.5": 50.0}, same={"sms-uniform": "sms"}),
    ]


def _key(rows: list[Row]) -> list[str]:
    return [row.key for row in rows]


def test_a_photo_has_its_mean_over_the_styles(styles: list[StyleResults]) -> None:
    pooled = pool_styles(styles, SAMPLING)
    assert pooled is not None
    sms, dds = (pooled.report.scores[key]["lpips-alex"] for key in ("sms-0.5", "dds-0.5"))
    assert sms.values == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4, 0.45])
    assert dds.values == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3, 0.35])
    assert (sms.value, dds.value) == pytest.approx((0.325, 0.225))
    assert sms.interval is not None
    assert 0.2 < sms.interval.low < 0.325 < sms.interval.high < 0.45
    assert pooled.report.scores["dds-0.5"]["fid"] == Score(40.0, None)
    assert pooled.report.photos == {"sms-0.5": 12, "sms-uniform-0.5": 12, "dds-0.5": 12}
    assert pooled.report.style == 20
    cost = pooled.cost(ROWS[0])
    assert cost is not None
    assert cost.seconds == 2.0


def test_photos_are_what_is_drawn_by_chance(styles: list[StyleResults]) -> None:
    """Six photos with one sign: p is 2 of 64 flips, as for one style, though there are twelve pictures."""
    pooled = pool_styles(styles, SAMPLING)
    assert pooled is not None
    found = pooled.differences["dds-0.5"]["lpips-alex"]
    assert found["value"] == pytest.approx(-0.1)
    assert found["photos"] == 6
    assert found["p"] == 2 / 64
    assert found["is_better"]
    assert "fid" not in pooled.differences["dds-0.5"]


def test_a_row_that_equals_another_in_a_style_has_its_figures(styles: list[StyleResults]) -> None:
    for order in (styles, styles[::-1]):
        pooled = pool_styles(order, SAMPLING)
        assert pooled is not None
        assert _key(list(pooled.rows)) == ["sms-0.5", "sms-uniform-0.5", "dds-0.5"]
        uniform = pooled.report.scores["sms-uniform-0.5"]
        assert uniform["lpips-alex"].value == pytest.approx(0.3)
        assert uniform["fid"].value == 17.0


def test_only_what_all_styles_have_is_taken(styles: list[StyleResults]) -> None:
    pooled = pool_styles([styles[0], replace(styles[1], same={})], SAMPLING)
    assert pooled is not None
    assert _key(list(pooled.rows)) == ["sms-0.5", "dds-0.5"]
    lost = {key: {"lpips-alex": {"b": 0.3, "z": 9.0}} for key in styles[1].photos}
    pooled = pool_styles([styles[0], replace(styles[1], photos=lost)], SAMPLING)
    assert pooled is not None
    assert pooled.photos["sms-0.5"] == {"lpips-alex": {"b": pytest.approx(0.25)}}
    assert pool_styles(styles[:1], SAMPLING) is None


def test_the_report_has_them_first(styles: list[StyleResults]) -> None:
    benchmark = Benchmark(styles=styles, photos={}, settings={}, machine={}, pooled=pool_styles(styles, SAMPLING))
    text = to_text(benchmark)
    assert text.index("## all styles") < text.index("## oil") < text.index("## ink")
    assert text.count("Every figure is the mean over the styles") == 1
    assert "### Differences to SMS, photo by photo, all styles" in text
    assert "![content against style](pareto.svg)" in text
    assert text.count("![pictures]") == 2
