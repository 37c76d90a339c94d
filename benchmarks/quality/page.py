"""Formats figures as tables for the terminal, and as a page of the documentation.

`python -m benchmarks.quality.page` writes the page again from the saved figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS
from stylescore.assembly.sources import model_hash
from stylescore.catalog.registry import resolve_model
from stylescore.evaluation.tables import format_table
from stylescore_apply.storage.files import atomic

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "quality.md"
SAVED = RESULTS / "quality.json"
EVERY = RESULTS / "quality_all.json"
"""Figures of all methods, where a run of their own has measured them: they take far longer than the main ones."""
MOBILE = RESULTS / "quality_mobile.json"
"""Figures of the styles that have a small network: of it, of the style's generator and of a run."""
COLUMNS = {
    "content": ("content distance", "{:.3f}"),
    "frechet": ("Fréchet distance", "{:.1f}"),
    "kernel": ("kernel distance", "{:.3f}"),
    "recognised": ("recognised", "{:.0%}"),
    "overshoot": ("overshoot", "{:.1%}"),
    "grid": ("grid", "{:.2f}"),
    "grain": ("grain", "{:.2f}"),
    "both": ("(1 + content) (1 + Fréchet)", "{:.1f}"),
}
USUAL = "sms-0.50"
BESIDE_SMALL = {
    "sms-0.50": "a run of SMS",
    "generator": "one-step generator, as its file states",
    "mobile": "small network, as its file states",
}
"""What is measured with the small networks."""
PAPER = {
    "sms-full": ("full", 0.326, 18.686),
    "sms-0.50": ("with the spectrum loss only", 0.505, 24.132),
    "sms-map": ("with the relevance map only", 0.536, 27.514),
    "sms-neither": ("neither", 0.703, 26.403),
}
"""LPIPS and ArtFID of the paper's ablation of one style."""

HEAD = """\
# Quality of the bundled model

How well the bundled model stylizes photos that no stage of its training used.
[What pictures are judged by](../concepts/metrics.md) describes each figure and its limits.
"""
UNMEASURED = """
**The figures have not been measured yet.** `python -m benchmarks.quality` measures them and writes this page;
`benchmarks/README.md` lists what it needs.
"""
STALE = """
**These figures are of an earlier version of the model or its preset.**
[The bundled model's preset](../concepts/bundled-preset.md) describes the changes since, with figures on validation
photos.
"""
READING = """
Smaller content, Fréchet and kernel distances are better, but none of them is enough alone: the unchanged photo is best
in the first and worst in the others. The last column combines two of them in one number as ArtFID does; **it is not
ArtFID**, whose networks were trained on other pictures. The program that the style was learned from is not a competing
method: it shows the figures of the exact style.

Overshoot, grid and grain compare visible artefacts with the style's own reference pictures; 0 is best, and the exact
style is at 0 by construction, up to chance. *Overshoot* is the fraction of colour values at black or white beyond that
of the style itself. *Grid* is the number of doublings by which the pattern of the latents, eight pixels wide, is
stronger than in the style. *Grain* is the number of doublings by which the contrast between neighbouring pixels is too
strong or too weak. A dash is a figure that was not measured.
"""


SMALL_HEAD = """\
Those that come with [stylescore-apply](../guides/apply.md#networks-that-come-with-it), on the same photos, beside the
two that they stand in for: a run, and the style's one-step generator, which is eight times as large and has taught some
of them. Those without noise leave a grid of eight pixels in even areas, and ink drawing is nearer to black and white
than the style.
"""


NOT_THE_PAPERS = """
**In content distance the order is the paper's**: with both parts pictures are closest to the photo, then with the
spectrum alone, then with the map alone, and with neither they are farthest from it. **In the last column it is not**:
the map alone is first, the whole method last, and the four lie within five per cent. As far as the figures show:

* That number weighs style far more here than in the paper. There the Fréchet distances of the four rows are 13 to 17,
  that of the whole method the smallest; here they are above a hundred, so a tenth of content distance weighs no more
  than ten of Fréchet distance. Whether a large model's 500 iterations would end nearer to the style, as in the paper,
  these figures cannot tell.
* It depends on the style. The whole method is first in oil painting, the spectrum alone in ink drawing and pixel art,
  the map alone in watercolor, stained glass and flat illustration, and nothing that holds the photo in pencil sketch
  and van Gogh. The shipped constants follow this as far as validation photos confirmed it ([Styles trained
  longer](../concepts/bundled-preset.md#styles-trained-longer)).

What the method is for does show. Against VSD, which holds nothing, content 0, 0.25 and 0.5 are nearer to the photo
and nearer to the style at once, but in pencil sketch and ink drawing, where VSD is ahead. With every step of the knob
content distance falls and Fréchet distance rises. SDEdit with the same LoRA is as far from the photo at strength 0.8
as content 0.75 is, with half of its recognition. SDS blurs, DDS hardly leaves the photo.

Which constants a style has of its own was suggested by this table, and chosen on validation photos.
"""


def format_cells(figures: Mapping[str, float | None]) -> list[str]:
    """Format the figures of a row; an unknown or unmeasured one is a dash."""
    return ["–" if (value := figures.get(key)) is None else form.format(value) for key, (_, form) in COLUMNS.items()]


def method_table(figures: Mapping[str, Any]) -> str:
    """Format the table of all methods, averaged over the styles."""
    rows = [[entry["words"], *format_cells(entry["mean"])] for entry in figures["methods"].values()]
    return format_table(["method", *(label for label, _ in COLUMNS.values())], rows)


def style_table(figures: Mapping[str, Any], method: str) -> str:
    """Format the table of one method, by style."""
    rows = [[style, *format_cells(entry)] for style, entry in figures["methods"][method]["styles"].items()]
    return format_table(["style", *(label for label, _ in COLUMNS.values())], rows)


def paper_table(figures: Mapping[str, Any]) -> str:
    """Format the paper's ablation beside this one."""
    rows = []
    for method, (label, lpips, artfid) in PAPER.items():
        ours = format_cells(figures["methods"][method]["mean"])
        rows.append([label, f"{lpips:.3f}", ours[0], f"{artfid:.1f}", ours[-1]])
    return format_table(["SMS", "paper, LPIPS", "content distance", "paper, ArtFID", COLUMNS["both"][0]], rows)


def has_papers_order(figures: Mapping[str, Any]) -> bool:
    """Return whether the ablation has the paper's order, by content and by content and style."""
    ours = {method: figures["methods"][method]["mean"] for method in PAPER}
    orders = [sorted(PAPER, key=lambda m, n=n: PAPER[m][n]) for n in (1, 2)]
    return all(
        sorted(PAPER, key=lambda m, k=key: ours[m][k]) == order
        for key, order in zip(("content", "both"), orders, strict=True)
    )


def describe_measurement(figures: Mapping[str, Any]) -> str:
    """Describe how the figures were measured."""
    machine, axes, photos = figures["machine"], figures["axes"], figures.get("main", figures)["photos"]
    return f"""\
* {photos} photos of the held-out part `{figures["split"]}`, {len(figures["styles"])} styles, seed
  {figures["seed"]}, every method with the model's own preset; {figures["references"]} reference pictures a style, drawn
  from other photos.
* The Fréchet distance is taken along {axes["count"]} principal axes of all reference pictures, which hold
  {axes["share"]:.0%} of their variance. With {photos} pictures it is biased upward: compare rows of this
  table, never its values with those of a paper.
* The classifier behind "recognised" is right for {figures["classifier_accuracy"]:.0%} of reference pictures it has not
  seen.
* Model `{figures["model_sha256"][:16]}`; torch {machine["torch"]}, {machine["gpu"] or machine["processor"]}."""


def render_all(figures: Mapping[str, Any], own_run: bool) -> str:
    """Render the table of all methods.

    Args:
        figures: of all methods.
        own_run: whether another run than that of the page's first table has made their pictures.
    """
    machine = figures["machine"]
    place = f" Torch {machine['torch']}, {machine['gpu'] or machine['processor']}." if own_run else ""
    remark = f" {figures['remark']}" if "remark" in figures else ""
    return (
        f"\n## All methods\n\nOver the first {figures['photos']} of these photos.{remark}{place}\n"
        f"Fréchet distances rise with fewer pictures: compare rows of one table only.\n\n{method_table(figures)}\n"
    )


def render_ablation(figures: Mapping[str, Any]) -> str:
    """Render the paper's ablation beside this one."""
    prose = "" if has_papers_order(figures) else NOT_THE_PAPERS
    return (
        "\n## The paper's ablation\n\nOther model, style, photos and networks: the two sides share no scale, and "
        f"only the order\nwithin a column can be compared.\n\n{paper_table(figures)}\n{prose}"
    )


def render_small(figures: Mapping[str, Any]) -> str:
    """Render the small networks' figures, style by style, beside those of the methods measured with them."""
    measured = {name: words for name, words in BESIDE_SMALL.items() if name in figures["methods"]}
    rows = [
        [style, words, *format_cells(figures["methods"][name]["styles"][style])]
        for style in figures["styles"]
        for name, words in measured.items()
    ]
    table = format_table(["style", "method", *(label for label, _ in COLUMNS.values())], rows)
    return f"\n## Small networks\n\n{SMALL_HEAD}\n{table}\n"


def render(
    figures: Mapping[str, Any] | None,
    model_sha256: str | None = None,
    every: Mapping[str, Any] | None = None,
    small: Mapping[str, Any] | None = None,
) -> str:
    """Render the page.

    Args:
        figures: the saved figures, if there are any.
        model_sha256: of the current model; figures of another model are marked.
        every: figures of all methods, if a run of their own has measured them.
        small: figures of the small networks.
    """
    if figures is None:
        return HEAD + UNMEASURED
    others = {table["model_sha256"] for table in (figures, every, small) if table} - {model_sha256}
    stale = STALE if model_sha256 is not None and others else ""
    first = figures.get("main", figures)
    blocks = [stale, f"\n{method_table(first)}\n", READING]
    if USUAL in first["methods"]:
        blocks.append(f"\n## Style by style\n\nSMS as the preset has it.\n\n{style_table(first, USUAL)}\n")
    if small:
        blocks.append(render_small(small))
    whole = every or figures
    if every or "main" in figures:
        blocks.append(render_all(whole, own_run=every is not None))
    if all(method in whole["methods"] for method in PAPER):
        blocks.append(render_ablation(whole))
    return HEAD + "".join(blocks) + f"\n## How it was measured\n\n{describe_measurement(figures)}\n"


def load_figures(path: Path) -> dict[str, Any] | None:
    """Load saved figures, if there are any."""
    if not path.is_file():
        return None
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def render_current() -> str:
    """Render the page of the saved figures; it says so if the model has changed since."""
    figures = load_figures(SAVED)
    model_sha256 = model_hash(resolve_model(figures["model"])) if figures else None
    return render(figures, model_sha256, load_figures(EVERY), load_figures(MOBILE))


def write_page() -> None:
    """Write the documentation's page from the saved figures."""
    with atomic(PAGE) as temporary:
        temporary.write_text(render_current(), encoding="utf-8")


if __name__ == "__main__":
    write_page()
