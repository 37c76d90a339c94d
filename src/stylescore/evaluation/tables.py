"""Lays figures out: for the terminal within 80 columns, as Markdown, as CSV, and as plain values for JSON. No torch."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stylescore.errors import count_of
from stylescore_apply.storage.files import sha256

if TYPE_CHECKING:
    from stylescore.evaluation.catalogue import Metric, Score
    from stylescore.evaluation.run import Report

WIDTH = 80
_DIGITS = 4
LARGEST_P = 0.05
"""Differences whose p-value is below are said to be beyond chance."""
_ARROWS = {"lower": "smaller", "higher": "larger"}
_NARROWEST = 16

Metrics = Mapping[str, "Metric"]


def format_number(value: float) -> str:
    """Format a figure with four digits, small ones with two that are not 0; exponents where they cannot be avoided."""
    if value != 0 and not 1e-5 <= abs(value) < 1e6:
        return f"{value:.{_DIGITS - 1}e}"
    if 0 < abs(value) < 1:
        return f"{value:.{max(_DIGITS - 1, 1 - math.floor(math.log10(abs(value))))}f}"
    return f"{value:.{max(0, _DIGITS - max(len(str(int(abs(value)))), 1))}f}"


def format_cell(score: Score | None) -> str:
    """Format a score with its interval; a dash where there is none."""
    if score is None:
        return "-"
    if score.interval is None:
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.interval.low)}, {format_number(score.interval.high)}]"


def format_counts(report: Report) -> list[str]:
    """Say how many pictures every figure rests on."""
    lines = [f"N = {count_of(count, 'pair')} in {name}" for name, count in report.photos.items()]
    return [*lines, f"N = {count_of(report.style, 'picture')} of the style"] if report.style else lines


def format_terminal(report: Report, metrics: Metrics, width: int = WIDTH) -> list[str]:
    """Return a table of at most `width` columns; more folders than fit beside each other follow in further tables."""
    names = [name for name in metrics if any(name in scores for scores in report.scores.values())]
    first = max([len("metric"), *map(len, names)])
    second = max(map(len, ("better", *_ARROWS.values())))
    lines: list[str] = []
    for folders in _fitting(report, names, width - first - second - 4):
        lines += ["", *_table(report, metrics, names, folders, (first, second))]
    return [*format_counts(report), *lines]


def _fitting(report: Report, names: Sequence[str], room: int) -> Iterator[list[str]]:
    """Group folders so that the columns of a group fit beside each other."""
    group: list[str] = []
    used = 0
    for folder in report.scores:
        needed = _column_width(report, names, folder) + 2
        if group and used + needed > room:
            yield group
            group, used = [], 0
        group.append(folder)
        used += needed
    yield group


def _column_width(report: Report, names: Sequence[str], folder: str) -> int:
    cells = [format_cell(report.scores[folder].get(name)) for name in names]
    return max([_NARROWEST, *map(len, cells)])


def _table(
    report: Report, metrics: Metrics, names: Sequence[str], folders: Sequence[str], widths: tuple[int, int]
) -> Iterator[str]:
    columns = {folder: _column_width(report, names, folder) for folder in folders}
    heads = [f"{_shorten(folder, width):<{width}}" for folder, width in columns.items()]
    yield "  ".join([f"{'metric':<{widths[0]}}", f"{'better':<{widths[1]}}", *heads]).rstrip()
    for name in names:
        cells = [f"{format_cell(report.scores[folder].get(name)):<{width}}" for folder, width in columns.items()]
        yield "  ".join([f"{name:<{widths[0]}}", f"{_ARROWS[metrics[name].better]:<{widths[1]}}", *cells]).rstrip()


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"...{text[3 - width :]}"


def format_differences(differences: Mapping[str, Mapping[str, Any]], first: str) -> list[str]:
    """Say which folders differ from the first beyond chance, photo by photo."""
    return [
        f"{folder} is {'better' if found['is_better'] else 'worse'} than {first} in {name}: "
        f"difference {format_number(found['value'])}, beyond chance"
        for folder, each in differences.items()
        for name, found in each.items()
        if is_beyond_chance(found)
    ]


def is_beyond_chance(difference: Mapping[str, Any]) -> bool:
    """Return whether a difference would be rarer than one in twenty if there were none; never below six photos."""
    return bool(difference["p"] < LARGEST_P)


def format_markdown(report: Report, metrics: Metrics) -> str:
    """Return the figures as a Markdown table, with what they rest on above it."""
    names = [name for name in metrics if any(name in scores for scores in report.scores.values())]
    head = ["metric", "measures", "better", *(_escape(folder) for folder in report.scores)]
    rows = [
        [f"`{name}`", metrics[name].what, _ARROWS[metrics[name].better]]
        + [format_cell(scores.get(name)) for scores in report.scores.values()]
        for name in names
    ]
    return "\n".join([*(f"* {_escape(line)}" for line in format_counts(report)), "", format_table(head, rows), ""])


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def format_csv(report: Report, metrics: Metrics) -> str:
    """Return the figures as CSV, one row for each folder and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["folder", "metric", "better", "value", "low", "high", "pairs", "style_pictures"])
    for folder, scores in report.scores.items():
        for name, score in scores.items():
            ends = ("", "") if score.interval is None else (score.interval.low, score.interval.high)
            counts = (report.photos[folder], report.style)
            writer.writerow([folder, name, metrics[name].better, score.value, *ends, *counts])
    return out.getvalue()


def to_values(report: Report, metrics: Metrics) -> dict[str, Any]:
    """Return a report as plain values for JSON; the weights are hashed, so that figures can be checked later."""
    return {
        "folders": {
            folder: {
                "pairs": report.photos[folder],
                "metrics": {name: _score_values(score, metrics[name]) for name, score in scores.items()},
            }
            for folder, scores in report.scores.items()
        },
        "style_pictures": report.style,
        "skipped": [asdict(entry) for entry in report.skipped],
        "weights": {
            name: {"origin": found.origin, "sha256": sha256(found.path)} for name, found in report.weights.items()
        },
    }


def _score_values(score: Score, metric: Metric) -> dict[str, Any]:
    interval = None if score.interval is None else [score.interval.low, score.interval.high]
    return {
        "value": score.value,
        "interval": interval,
        "better": metric.better,
        "measures": metric.what,
        "depends_on_n": metric.is_biased,
        "values": list(score.values),
    }
