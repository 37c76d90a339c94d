"""The tables of a benchmark in the paper's layout: single pictures, ablation, feed-forward; as Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stylescore.benchmark.grid import Row
from stylescore.benchmark.results import StyleResults
from stylescore.evaluation.tables import format_cell, format_number, format_table, is_beyond_chance

ORDER = (
    *("lpips-alex", "lpips-grey", "lpips-vgg", "cfsd", "dino-structure", "art-fid", "artfid", "art-fid-infinity"),
    *("fid", "fid-infinity", "kid", "csd", "csd-set", "histogram", "pickscore", "clip-score", "clip-direction"),
    *("st-lpips", "hed-structure", "focus-distance", "mobilenet-frechet", "mobilenet-kernel"),
    *("hed-gram", "hed-neighbours"),
)
"""Columns from left to right: the paper's figures, then others of the literature, then those that work offline."""
FULL = "full"
_MIB = 2**20
_CSV_HEAD = "style method label content metric better value low high pictures seconds passes memory_bytes"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what stands in it.
        is_best: whether its figure is the best of its column.
    """

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """A table, ready for any format.

    Attributes:
        title: what it shows.
        head: names of the columns.
        rows: its rows.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def single_picture_table(results: StyleResults) -> Table | None:
    """Return the table of the methods, each at the central stand of its knob, or `None` without any."""
    rows = [row for row in results.central if row.variant.has_knob]
    if not rows:
        return None
    return _table(results, f"Single pictures, {results.style}", rows, [row.variant.label for row in rows])


def ablation_table(results: StyleResults) -> Table | None:
    """Return the table of SMS and its ablations, or `None` without any."""
    rows = [row for row in results.central if row.variant.method == "sms"]
    if len(rows) < 2:
        return None
    labels = [row.variant.label if row.variant.is_ablation else FULL for row in rows]
    return _table(results, f"Ablation of SMS, {results.style}", [*rows[1:], rows[0]], [*labels[1:], labels[0]])


def feed_forward_table(results: StyleResults) -> Table | None:
    """Return the table of the one-step generators, or `None` without any."""
    rows = [row for row in results.rows if row.variant.generator is not None]
    if not rows:
        return None
    return _table(results, f"Feed-forward, {results.style}", rows, [row.variant.label for row in rows])


def knob_table(results: StyleResults) -> Table | None:
    """Return the table of every stand of the knobs, or `None` if there is one stand alone."""
    if all(row.is_central for row in results.rows):
        return None
    order = [row.variant.key for row in results.rows]
    rows = sorted(
        (row for row in results.rows if row.variant.has_knob),
        key=lambda row: (order.index(row.variant.key), row.content),
    )
    labels = [f"{row.variant.label}, {row.content:g}" for row in rows]
    return _table(results, f"Over the knob, {results.style}", rows, labels)


def difference_table(results: StyleResults) -> Table | None:
    """Return the table of the central rows' differences to the first one, photo by photo, or `None` without any.

    Only differences beyond chance are called better or worse; better ones are bold.
    """
    rows = [row for row in results.central if results.differences.get(row.key)]
    if not rows:
        return None
    found = {name for row in rows for name in results.differences[row.key]}
    names = [name for name in columns(results) if name in found]
    cells = [
        [Cell(row.variant.label), *(_difference_cell(results.differences[row.key].get(name)) for name in names)]
        for row in rows
    ]
    title = f"Differences to {results.rows[0].variant.label}, photo by photo, {results.style}"
    return Table(title, ["method", *(_head(results, name) for name in names)], cells)


def _difference_cell(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell("-")
    sign, is_real = "" if found["value"] < 0 else "+", is_beyond_chance(found)
    word = "" if not is_real else " better" if found["is_better"] else " worse"
    return Cell(f"{sign}{format_number(found['value'])}{word}", is_real and bool(found["is_better"]))


def every_table(results: StyleResults) -> list[Table]:
    """Return the tables of a style."""
    makers = (single_picture_table, ablation_table, feed_forward_table, difference_table, knob_table)
    found = [make(results) for make in makers]
    return [table for table in found if table is not None]


def columns(results: StyleResults) -> list[str]:
    """Return the metrics that were computed, in the order of the columns."""
    computed = {name for scores in results.report.scores.values() for name in scores}
    return [name for name in (*ORDER, *sorted(computed - set(ORDER))) if name in computed]


def _table(results: StyleResults, title: str, rows: Sequence[Row], labels: Sequence[str]) -> Table:
    names = columns(results)
    best = {name: _best(results, rows, name) for name in names}
    cells = [
        [Cell(label), *(_cell(results, row, name, best[name]) for name in names), *_cost_cells(results, row)]
        for row, label in zip(rows, labels, strict=True)
    ]
    head = [_head(results, name) for name in names]
    return Table(title, ["method", *head, "seconds", "passes", "MiB"], cells)


def _head(results: StyleResults, name: str) -> str:
    """Return the head of a metric's column, with the direction that is better."""
    return f"{name} {'↓' if results.metrics[name].better == 'lower' else '↑'}"


def _cell(results: StyleResults, row: Row, name: str, best: float | None) -> Cell:
    score = results.score(row, name)
    return Cell(format_cell(score), score is not None and score.value == best)


def _best(results: StyleResults, rows: Sequence[Row], name: str) -> float | None:
    """Return the best figure of a column; with one row there is nothing to be better than."""
    values = [score.value for row in rows if (score := results.score(row, name)) is not None]
    if len(values) < 2:
        return None
    return min(values) if results.metrics[name].better == "lower" else max(values)


def _cost_cells(results: StyleResults, row: Row) -> list[Cell]:
    cost = results.cost(row)
    if cost is None:
        return [Cell("-")] * 3
    memory = "-" if cost.memory is None else f"{cost.memory / _MIB:.0f}"
    return [Cell(f"{cost.seconds:.1f}"), Cell(f"{cost.passes:.0f}"), Cell(memory)]


def to_markdown(table: Table) -> str:
    """Return a table as Markdown, the best figures in bold."""
    rows = [[_escape_markdown(_bold(cell, "**", "**")) for cell in row] for row in table.rows]
    return f"### {table.title}\n\n{format_table([_escape_markdown(name) for name in table.head], rows)}\n"


def _bold(cell: Cell, before: str, after: str) -> str:
    """Return a cell with its figure, but not its interval, in bold if it is the best."""
    figure, space, spread = cell.text.partition(" ")
    return f"{before}{figure}{after}{space}{spread}" if cell.is_best else cell.text


def _escape_markdown(text: str) -> str:
    return text.replace("|", "\\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def to_latex(table: Table) -> str:
    """Return a table as LaTeX for the package booktabs, without the intervals, the best figures in bold."""
    head = " & ".join(map(escape_latex, table.head))
    lines = [" & ".join(map(_latex_cell, row)) + r" \\" for row in table.rows]
    spec = "l" + "r" * (len(table.head) - 1)
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape_latex(table.title)}}}",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text.partition(" [")[0])
    return rf"\textbf{{{text}}}" if cell.is_best else text


def escape_latex(text: str) -> str:
    """Return a text with LaTeX's special letters escaped."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def to_csv(every: Sequence[StyleResults]) -> str:
    """Return all figures of all styles as CSV, one line for each row and metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_HEAD.split())
    for results in every:
        writer.writerows(_csv_lines(results))
    return out.getvalue()


def _csv_lines(results: StyleResults) -> Iterator[list[object]]:
    for row in results.rows:
        cost = results.cost(row)
        costs = (
            ["", "", ""] if cost is None else [cost.seconds, cost.passes, "" if cost.memory is None else cost.memory]
        )
        head = [results.style, row.variant.key, row.variant.label, row.content]
        count = results.report.photos[row.key]
        for name, score in results.report.scores[row.key].items():
            ends = ("", "") if score.interval is None else (score.interval.low, score.interval.high)
            yield [*head, name, results.metrics[name].better, score.value, *ends, count, *costs]
