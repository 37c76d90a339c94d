"""The report of a benchmark: one page that needs no network, tables, plots, contact sheets and all figures as JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from stylescore.benchmark.grid import file_name
from stylescore.benchmark.plot import axes, pareto_svg
from stylescore.benchmark.results import Failure, Picture, StyleResults
from stylescore.benchmark.tables import Cell, Table, every_table, to_csv, to_latex, to_markdown
from stylescore.errors import count_of
from stylescore.evaluation.reading import read_picture
from stylescore.evaluation.tables import to_values
from stylescore.images import contact_sheet
from stylescore.runs.folder import make_folder
from stylescore_apply.storage.files import atomic

TITLE = "stylescore benchmark"
THUMBNAIL = 480
"""Longest side in pixels of the pictures in the page: 24 photos by six methods are about six megabytes."""
QUALITY = 80
FEWEST_PHOTOS = 6
"""With fewer photos no difference is beyond chance, see `sign_flip_test`."""
NO_SCALE = (
    "Intervals hold 95 % for photos drawn like these; results of several seeds count as pictures of their own there. "
    "Differences are taken photo by photo, over the seeds' mean. Better and worse are those that random signs would "
    "reach in less than one of twenty cases; so one of twenty comparisons of equal methods is called one, too. "
    "Distances between sets depend on the number of pictures: compare rows of one table, never with those of a paper."
)
POOLED = (
    "Every figure is the mean over the styles. Intervals and differences are those of photos, each with its mean over "
    "the styles; distances between sets have none here."
)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """All of a benchmark.

    Attributes:
        styles: the results of each style.
        pooled: the figures over all styles, or `None`.
        photos: the photos with their hashes, in order.
        settings: how it was called, by name.
        machine: versions and devices, by name.
        failures: pictures that could not be made.
        shown: how many photos the page and the sheets show, at most.
    """

    styles: Sequence[StyleResults]
    photos: Mapping[Path, str]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    failures: Sequence[Failure] = ()
    shown: int = 24
    notes: Sequence[str] = field(default_factory=tuple)
    pooled: StyleResults | None = None

    @property
    def results(self) -> list[StyleResults]:
        """The figures over all styles where there are some, then those of each style."""
        return [*([] if self.pooled is None else [self.pooled]), *self.styles]

    @property
    def shown_photos(self) -> list[Path]:
        """The photos that are shown."""
        return list(self.photos)[: self.shown]


def write_report(benchmark: Benchmark, folder: Path) -> Path:
    """Write every file of the report, each whole or not at all, and return the page's path.

    Raises:
        OutputError: a file cannot be written.
    """
    make_folder(folder)
    tables = [table for results in benchmark.results for table in every_table(results)]
    _write(folder / "results.json", json.dumps(to_json(benchmark), indent=2, allow_nan=False) + "\n")
    _write(folder / "tables.csv", to_csv(benchmark.results))
    _write(folder / "tables.tex", "% needs \\usepackage{booktabs}\n" + "\n".join(map(to_latex, tables)))
    _write(folder / "report.md", to_text(benchmark))
    for results in benchmark.results:
        plot = pareto_svg(results)
        if plot is not None:
            _write(folder / _plot_name(benchmark, results), plot)
    for results in benchmark.styles:
        with atomic(folder / f"sheet-{file_name(results.style)}.jpg") as temporary:
            make_sheet(benchmark, results).save(temporary, format="JPEG", quality=QUALITY)
    page = folder / "report.html"
    _write(page, to_page(benchmark))
    return page


def _plot_name(benchmark: Benchmark, results: StyleResults) -> str:
    return "pareto.svg" if results is benchmark.pooled else f"pareto-{file_name(results.style)}.svg"


def _write(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def describe(benchmark: Benchmark) -> str:
    """Say what was compared, in one sentence."""
    seeds = sorted({picture.seed for results in benchmark.styles for picture in results.pictures})
    names = ", ".join(results.style for results in benchmark.styles)
    photos = count_of(len(benchmark.photos), "photo")
    return f"{photos}, style {names}, {count_of(len(seeds), 'seed')} of every method. {NO_SCALE}"


def describe_style(results: StyleResults) -> list[str]:
    """Return what a reader must know about a style's figures, one line each."""
    report = results.report
    counts = sorted(set(report.photos.values()))
    lines = [f"N = {' or '.join(map(str, counts))} pictures a row, {report.style} pictures of the style."]
    lines += [f"{key} was left out: with these constants it equals {same}." for key, same in results.same.items()]
    if len(results.rows) > 1 and max(counts) < FEWEST_PHOTOS:
        lines.append(f"No row is said to be better than another on fewer than {FEWEST_PHOTOS} photos.")
    reasons: dict[str, list[str]] = {}
    for entry in report.skipped:
        reasons.setdefault(entry.reason, []).append(entry.metric)
    if reasons:
        left_out = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        lines.append(f"Not computed: {left_out}.")
    if axes(results) is None:
        lines.append("No plot: it needs a measure of content and one of style, such as pictures of the style.")
    return lines


def _describe(benchmark: Benchmark, results: StyleResults) -> list[str]:
    return [*describe_style(results), *([POOLED] if results is benchmark.pooled else [])]


def _describe_failures(benchmark: Benchmark) -> list[str]:
    return [f"Not made: {f.photo.name}, {f.row}, seed {f.seed}: {f.reason}" for f in benchmark.failures]


def to_text(benchmark: Benchmark) -> str:
    """Return the report as Markdown."""
    blocks = [f"# {TITLE}", describe(benchmark), *_bullets([*benchmark.notes, *_describe_failures(benchmark)])]
    for results in benchmark.results:
        blocks += [f"## {results.style}", *_bullets(_describe(benchmark, results))]
        if axes(results) is not None:
            blocks.append(f"![content against style]({_plot_name(benchmark, results)})")
        if results is not benchmark.pooled:
            blocks.append(f"![pictures](sheet-{file_name(results.style)}.jpg)")
        blocks += map(to_markdown, every_table(results))
    blocks += ["## Configuration", f"```json\n{json.dumps(_configuration(benchmark), indent=2)}\n```"]
    return "\n\n".join(blocks) + "\n"


def _bullets(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"* {line}" for line in lines)] if lines else []


def _configuration(benchmark: Benchmark) -> dict[str, Any]:
    """Return how the benchmark can be repeated: settings, hashes, versions, and every row's constants."""
    return {
        "settings": dict(benchmark.settings),
        "machine": dict(benchmark.machine),
        "photos": {path.name: digest for path, digest in benchmark.photos.items()},
        "styles": {
            results.style: {
                "hashes": dict(results.hashes),
                "rows": {row.key: _row_settings(results, row.key) for row in results.rows},
            }
            for results in benchmark.styles
        },
    }


def _row_settings(results: StyleResults, key: str) -> dict[str, Any]:
    """Return the settings of a row's first run that do not name a photo."""
    first = next(picture for picture in results.pictures if picture.row == key)
    return {name: value for name, value in first.settings.items() if name.startswith("run.")}


def to_json(benchmark: Benchmark) -> dict[str, Any]:
    """Return all figures, costs and settings as plain values."""
    return {
        **_configuration(benchmark),
        "all_styles": None if benchmark.pooled is None else _figures(benchmark.pooled),
        "failures": [{**asdict(failure), "photo": str(failure.photo)} for failure in benchmark.failures],
        "results": {
            results.style: {
                **_figures(results),
                "left_out": dict(results.same),
                "pictures": [_picture_values(picture) for picture in results.pictures],
            }
            for results in benchmark.styles
        },
    }


def _figures(results: StyleResults) -> dict[str, Any]:
    return {
        **to_values(results.report, results.metrics),
        "differences": results.differences,
        "labels": {row.key: row.variant.label for row in results.rows},
    }


def _picture_values(picture: Picture) -> dict[str, Any]:
    return {
        "row": picture.row,
        "photo": picture.photo.name,
        "seed": picture.seed,
        "picture": str(picture.path),
        "cost": None if picture.cost is None else asdict(picture.cost),
    }


def make_sheet(benchmark: Benchmark, results: StyleResults) -> Image.Image:
    """Return photos and pictures in a grid: a row a photo, a column a method."""
    rows = []
    for photo in benchmark.shown_photos:
        found = [_first(results, row.key, photo) for row in results.central]
        rows.append([_small(photo), *(_small(each.path) for each in found if each is not None)])
    labels = ["photo", *(row.variant.label for row in results.central)]
    return contact_sheet(rows, labels if all(len(row) == len(labels) for row in rows) else None)


def _first(results: StyleResults, key: str, photo: Path) -> Picture | None:
    """Return a row's picture of a photo of the first seed, if it was made."""
    found = [picture for picture in results.pictures if picture.row == key and picture.photo == photo]
    return min(found, key=lambda picture: picture.seed, default=None)


def _small(path: Path) -> Image.Image:
    """Return a picture no larger than a thumbnail."""
    picture = read_picture(path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def to_page(benchmark: Benchmark) -> str:
    """Return the report as one HTML page with all that it shows in it."""
    part = files("stylescore.benchmark") / "page"
    names = {name: (part / f"report.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    sections = [_list([*benchmark.notes, *_describe_failures(benchmark)])]
    sections += [_section(benchmark, results) for results in benchmark.results]
    configuration = escape(json.dumps(_configuration(benchmark), indent=2))
    sections.append(f"<details><summary>Configuration and hashes</summary><pre>{configuration}</pre></details>")
    return Template(names["html"]).substitute(
        title=escape(TITLE),
        summary=escape(describe(benchmark)),
        css=names["css"],
        js=names["js"],
        sections="\n".join(sections),
    )


def _section(benchmark: Benchmark, results: StyleResults) -> str:
    """Return the part of the page on one style, or on all of them, which has no pictures."""
    style = escape(results.style)
    parts = [f'<section data-style="{style}">', f"<h2>{style}</h2>", _list(_describe(benchmark, results))]
    parts.append(f'<div class="scroll">{pareto_svg(results) or ""}</div>')
    parts += [_html_table(table) for table in every_table(results)]
    if results is not benchmark.pooled:
        parts += ["<h3>Before and after</h3>", _slider(), "<h3>Pictures</h3>", _html_sheet(benchmark, results)]
    return "\n".join([*parts, "</section>"])


def _list(lines: Sequence[str]) -> str:
    return "" if not lines else "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
    return (
        f'<h3>{escape(table.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _html_cell(cell: Cell) -> str:
    figure, bracket, spread = cell.text.partition(" [")
    shown = f"<strong>{escape(figure)}</strong>" if cell.is_best else escape(figure)
    return f"<td>{shown}{f' <small>[{escape(spread)}</small>' if bracket else ''}</td>"


def _slider() -> str:
    return (
        '<p class="shown"></p><div class="slider"><img alt=""><img class="before" alt="the photo"></div>'
        '<input class="range" type="range" min="0" max="100" value="50" aria-label="Photo to picture">'
    )


def _html_sheet(benchmark: Benchmark, results: StyleResults) -> str:
    """Return the grid of pictures; each is a button that shows it in the slider."""
    head = "".join(f"<th>{escape(label)}</th>" for label in ("photo", *(r.variant.label for r in results.central)))
    rows = [
        f"<tr><td>{_image(photo, photo.name)}</td>{_cells(results, photo)}</tr>" for photo in benchmark.shown_photos
    ]
    return f'<div class="scroll"><table class="sheet"><thead><tr>{head}</tr></thead>{"".join(rows)}</table></div>'


def _cells(results: StyleResults, photo: Path) -> str:
    cells = []
    for row in results.central:
        found, label = _first(results, row.key, photo), f"{photo.name}, {row.variant.label}"
        inside = "" if found is None else f'<button data-label="{escape(label)}">{_image(found.path, label)}</button>'
        cells.append(f"<td>{inside}</td>")
    return "".join(cells)


def _image(path: Path, label: str) -> str:
    """Return a picture as an element that holds its data."""
    out = io.BytesIO()
    _small(path).save(out, format="JPEG", quality=QUALITY)
    data = base64.b64encode(out.getvalue()).decode("ascii")
    return f'<img alt="{escape(label)}" src="data:image/jpeg;base64,{data}">'
