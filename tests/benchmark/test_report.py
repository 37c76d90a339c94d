"""Tables, plot and page of figures that are written out here."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from stylescore.benchmark.grid import make_rows, make_variants
from stylescore.benchmark.plot import Curve, axes, draw, make_curves, pareto_svg, ticks
from stylescore.benchmark.report import Benchmark, to_text, write_report
from stylescore.benchmark.results import Failure, Picture, StyleResults, pair_rows
from stylescore.benchmark.tables import (
    ablation_table,
    columns,
    difference_table,
    escape_latex,
    every_table,
    feed_forward_table,
    knob_table,
    single_picture_table,
    to_csv,
    to_latex,
    to_markdown,
)
from stylescore.evaluation.catalogue import METRICS, Score
from stylescore.evaluation.run import Report, Skipped
from stylescore.metrics.intervals import Interval
from stylescore.runs.costs import Cost

FIGURES = {
    "sms-0.5": (0.30, 12.0),
    "sms-spectrum-0.5": (0.40, 11.0),
    "dds-0.5": (0.50, 15.0),
    "sms-0.25": (0.35, 11.5),
    "dds-0.25": (0.60, 14.0),
}


@pytest.fixture
def results(tmp_path: Path) -> StyleResults:
    rows = make_rows(make_variants(["sms", "dds"], ["spectrum"]), [0.5, 0.25])
    pictures = []
    for number, name in enumerate(("one", "two")):
        Image.new("RGB", (60, 40), (90 * number, 10, 200)).save(tmp_path / f"{name}.png")
        for row in rows:
            path = tmp_path / row.key / name / "picture.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (60, 40), (40, 90 * number, 10)).save(path)
            cost = Cost(seconds=2.0 + number, forward_passes=10, trained_passes=5, memory=2**20, device="cpu")
            photo = tmp_path / f"{name}.png"
            settings = {"run.seed": 0, "photo": str(photo)}
            pictures.append(Picture(row=row.key, photo=photo, seed=0, path=path, cost=cost, settings=settings))
    scores = {
        key: {"lpips-alex": Score(x, Interval(x - 0.1, x + 0.1)), "csd": Score(y, None)}
        for key, (x, y) in FIGURES.items()
    }
    report = Report(scores, [Skipped("artfid", "no weights of it")], {}, dict.fromkeys(FIGURES, 2), 3)
    metrics = {name: METRICS[name] for name in ("csd", "lpips-alex")}
    return StyleResults(
        style="oil",
        rows=rows,
        pictures=pictures,
        report=report,
        metrics=metrics,
        differences={},
        hashes={"style": "ab"},
    )


def test_the_table_of_methods(results: StyleResults) -> None:
    table = single_picture_table(results)
    assert table is not None
    assert table.head == ["method", "lpips-alex ↓", "csd ↑", "seconds", "passes", "MiB"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["SMS", "0.300 [0.200, 0.400]", "12.00", "2.5", "15", "1"],
        ["DDS", "0.500 [0.400, 0.600]", "15.00", "2.5", "15", "1"],
    ]
    assert [[cell.is_best for cell in row[1:3]] for row in table.rows] == [[True, False], [False, True]]


def test_the_table_of_ablations_ends_with_the_whole(results: StyleResults) -> None:
    table = ablation_table(results)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["without spectrum", "full"]
    only = replace(results, rows=[row for row in results.rows if not row.variant.is_ablation])
    assert ablation_table(only) is None


def test_differences_beyond_chance_are_named(results: StyleResults) -> None:
    found = {
        "dds-0.5": {
            "lpips-alex": {"value": -0.2, "p": 0.03, "is_better": True},
            "csd": {"value": -1.0, "p": 0.03, "is_better": False},
        },
        "sms-spectrum-0.5": {"csd": {"value": 0.004, "p": 0.06, "is_better": True}},
        "dds-0.25": {"csd": {"value": 1.0, "p": 0.03, "is_better": True}},
    }
    assert difference_table(results) is None
    table = difference_table(replace(results, differences=found))
    assert table is not None
    assert table.title == "Differences to SMS, photo by photo, oil"
    assert table.head == ["method", "lpips-alex ↓", "csd ↑"]
    assert [[(cell.text, cell.is_best) for cell in row] for row in table.rows] == [
        [("without spectrum", False), ("-", False), ("+0.0040", False)],
        [("DDS", False), ("-0.200 better", True), ("-1.000 worse", False)],
    ]
    assert "| DDS | **-0.200** better | -1.000 worse |" in to_markdown(table)


def test_generators_have_a_table_of_their_own(results: StyleResults) -> None:
    """The paper's layout: single pictures, ablation, feed-forward."""
    assert feed_forward_table(results) is None
    variants = make_variants(["sms"], [], {"Generator": Path("oil.onnx"), "DDS, 2": Path("dds.onnx")})
    rows = make_rows(variants, [0.5, 0.25])
    assert [row.key for row in rows] == ["sms-0.5", "generator", "generator-DDS__2", "sms-0.25"]
    small = make_variants([], [], {"Small network": Path("oil-mobile.onnx")})
    assert [variant.key for variant in small] == ["mobile"]
    scores = {row.key: {"lpips-alex": Score(0.1 * n, None)} for n, row in enumerate(rows)}
    report = replace(results.report, scores=scores, photos=dict.fromkeys(scores, 2))
    both = replace(results, rows=rows, report=report, pictures=[])
    titles = [table.title for table in every_table(both)]
    assert titles == ["Single pictures, oil", "Feed-forward, oil", "Over the knob, oil"]
    forward, single = feed_forward_table(both), single_picture_table(both)
    assert forward is not None
    assert single is not None
    assert [[cell.text for cell in row[:2]] for row in forward.rows] == [["Generator", "0.100"], ["DDS, 2", "0.200"]]
    assert [row[0].text for row in single.rows] == ["SMS"]
    assert single_picture_table(replace(both, rows=rows[1:3])) is None


def test_the_table_over_the_knob(results: StyleResults) -> None:
    table = knob_table(results)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["SMS, 0.25", "SMS, 0.5", "DDS, 0.25", "DDS, 0.5"]
    assert knob_table(replace(results, rows=results.central)) is None


def test_a_row_without_figure_or_cost_has_dashes(results: StyleResults) -> None:
    del results.report.scores["dds-0.5"]["csd"]
    free = replace(results, pictures=[replace(picture, cost=None) for picture in results.pictures])
    table = single_picture_table(free)
    assert table is not None
    assert [cell.text for cell in table.rows[1][2:]] == ["-"] * 4


def test_formats(results: StyleResults) -> None:
    table = single_picture_table(results)
    assert table is not None
    markdown, latex = to_markdown(table), to_latex(table)
    assert "| SMS | **0.300** [0.200, 0.400] | 12.00 | 2.5 | 15 | 1 |" in markdown
    assert r"SMS & \textbf{0.300} & 12.00 & 2.5 & 15 & 1 \\" in latex
    assert latex.count(r"\begin") == latex.count(r"\end") == 2
    assert escape_latex("a_b & 50% {x} ~ ^ \\ #1 $") == (
        r"a\_b \& 50\% \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \#1 \$"
    )
    rows = list(csv.DictReader(io.StringIO(to_csv([results]))))
    assert len(rows) == 2 * len(FIGURES)
    assert {(row["method"], float(row["content"]), float(row["value"])) for row in rows if row["metric"] == "csd"} == {
        (key.rpartition("-")[0], float(key.rpartition("-")[2]), y) for key, (_, y) in FIGURES.items()
    }


def test_columns_have_the_papers_order(results: StyleResults) -> None:
    results.report.scores["sms-0.5"]["st-lpips"] = Score(1.0, None)
    results.report.scores["sms-0.5"]["artfid"] = Score(1.0, None)
    assert columns(results) == ["lpips-alex", "artfid", "csd", "st-lpips"]


def test_a_curve_has_its_points_in_the_order_of_the_knob(results: StyleResults) -> None:
    assert axes(results) == ("lpips-alex", "csd")
    curves = {curve.label: list(curve.points) for curve in make_curves(results, "lpips-alex", "csd")}
    assert curves["SMS"] == [(0.35, 11.5, 0.25), (0.30, 12.0, 0.5)]
    assert curves["without spectrum"] == [(0.40, 11.0, 0.5)]


def test_points_lie_where_their_figures_are() -> None:
    curves = [Curve("a <b>", [(0.0, 10.0, 0.2), (1.0, 20.0, 0.8)]), Curve("c", [(0.5, 15.0, 0.5)])]
    tree = ET.fromstring(draw(curves, "x", "y"))
    space = "{http://www.w3.org/2000/svg}"
    places = {
        mark.findtext(f"{space}title"): tuple(map(float, mark.attrib["transform"][10:-1].split()))
        for mark in tree.iter(f"{space}path")
        if mark.find(f"{space}title") is not None
    }
    low, middle, high = places["a <b>, 0.2"], places["c, 0.5"], places["a <b>, 0.8"]
    assert low[0] < high[0]
    assert low[1] > high[1]
    assert middle == pytest.approx(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2), abs=0.1)
    assert len(list(tree.iter(f"{space}polyline"))) == 1


def test_many_curves_can_be_told_apart_and_fit() -> None:
    """25 of them, as methods with all ablations make: no two have the same colour and mark, the legend is inside."""
    tree = ET.fromstring(draw([Curve(str(n), [(n, n, 0.2), (n + 0.1, n, 0.8)]) for n in range(25)], "x", "y"))
    space = "{http://www.w3.org/2000/svg}"
    marks = [mark for mark in tree.iter(f"{space}path") if "transform" in mark.attrib]
    legend = [mark for mark in marks if mark.find(f"{space}title") is None]
    assert len({(mark.attrib["d"], mark.attrib["fill"]) for mark in legend}) == 25
    height = float(tree.attrib["viewBox"].split()[3])
    assert all(0 < float(text.attrib.get("y", 1)) < height for text in tree.iter(f"{space}text"))
    numbers = [text for text in tree.iter(f"{space}text") if text.attrib.get("font-size") == "10"]
    assert 25 <= len(numbers) < 50


def test_ticks_are_round_and_within() -> None:
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3.1, 7.2) == [-2, 0, 2, 4, 6] or ticks(-3.1, 7.2)[0] >= -3.1
    assert all(12.3 <= value <= 12.4 for value in ticks(12.3, 12.4))


def test_without_a_measure_of_style_there_is_no_plot(results: StyleResults) -> None:
    for scores in results.report.scores.values():
        del scores["csd"]
    assert pareto_svg(results) is None


def test_only_runs_that_every_row_has_are_measured(results: StyleResults) -> None:
    lost = [picture for picture in results.pictures if (picture.row, picture.photo.stem) != ("dds-0.5", "two")]
    pairs = pair_rows(results.rows, lost)
    assert set(pairs) == set(FIGURES)
    assert all([pair.name for pair in pairing.pairs] == ["one"] for pairing in pairs.values())
    pairs = pair_rows(results.rows, [*results.pictures, *(replace(p, seed=1) for p in results.pictures)])
    assert {len(pairing.pairs) for pairing in pairs.values()} == {4}


class Sources(HTMLParser):
    """Collects what a page would load, and its tags that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]


def test_the_page_holds_all_it_shows(results: StyleResults, tmp_path: Path) -> None:
    photos = {tmp_path / f"{name}.png": name * 2 for name in ("one", "two")}
    failure = Failure(row="dds-0.5", photo=tmp_path / "three.png", seed=0, reason="<it diverged>")
    benchmark = Benchmark(
        styles=[results], photos=photos, settings={"seed": 0}, machine={"torch": "2"}, failures=[failure], shown=1
    )
    page = write_report(benchmark, tmp_path / "report")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        *("pareto-oil.svg", "report.html", "report.md", "results.json", "sheet-oil.jpg", "tables.csv", "tables.tex"),
    ]
    html = page.read_text("utf-8")
    sources = Sources()
    sources.feed(html)
    assert sources.loaded
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources.loaded)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", html)
    assert "<it diverged>" not in html
    assert html.count('<button data-label="one.png') == 3
    assert "two.png, SMS" not in html
    values = json.loads((page.parent / "results.json").read_text("utf-8"))
    assert values["results"]["oil"]["folders"]["sms-0.5"]["metrics"]["lpips-alex"]["value"] == 0.30
    assert values["photos"] == {"one.png": "oneone", "two.png": "twotwo"}
    assert str(tmp_path) not in json.dumps(values["styles"])
    assert "Not computed: artfid: no weights of it." in to_text(benchmark)
