"""Tables from figures: for the terminal, and as the page of the documentation.

`python -m benchmarks.quality.page` writes the page anew from the figures that are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS
from stylescore.assembly.sources import model_hash
from stylescore.catalog.registry import resolve_model
from stylescore.storage.files import atomic

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "quality.md"
KEPT = RESULTS / "quality.json"
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
PAPER = {
    "sms-0.50": ("full", 0.326, 18.686),
    "sms-no-relevance": ("with the spectrum loss only", 0.505, 24.132),
    "sms-no-spectrum": ("with the relevance map only", 0.536, 27.514),
    "sms-0.00": ("neither", 0.703, 26.403),
}
"""LPIPS and ArtFID of the paper's ablation of one style."""

HEAD = """\
# Quality of the bundled model

How well the bundled model stylizes photos that no stage of its training has seen. What each figure means, and what it
cannot tell, stands under [What pictures are judged by](../concepts/metrics.md).
"""
UNMEASURED = """
**The figures have not been measured yet.** `python -m benchmarks.quality` measures them and writes this page;
`benchmarks/README.md` tells what it needs.
"""
STALE = """
**These figures are of an earlier form of the model or its preset.** What has changed since, and what it gave on
validation photos, stands under [The bundled model's preset](../concepts/bundled-preset.md).
"""
READING = """
Content distance, Fréchet and kernel distance are better when smaller, each alone: the unchanged photo is best in the
first and worst in the others. The last column puts two of them into one number in the manner of ArtFID; **it is not
ArtFID**, whose networks were trained on other pictures. The program that the style was learned from is not a rival: it
shows what the figures are when the style is exact.

Overshoot, grid and grain compare what the eye sees with the style's own reference pictures; 0 is best, and the exact
style is at 0 by construction, up to chance. *Overshoot* is the share of colour values at black or white that the style
does not have itself. *Grid* is how many doublings the pattern of the latents, eight pixels wide, is stronger than in
the style. *Grain* is how many doublings the contrast between neighbouring pixels is off, too noisy or too smooth. A
dash is a figure that was not measured.
"""


NOT_THE_PAPERS = """
**In content distance the ends are the paper's**: with both parts pictures are by far closest to the photo, with neither
they are farthest from it; of the two parts the map holds slightly more here, the spectrum there. **In the last column
the order is not the paper's**: the four rows lie within three per cent, with the spectrum alone in front. The reasons,
as far as the figures show them:

* That number weighs style far more here than in the paper. There the Fréchet distances of the four rows are 13 to 17,
  that of the whole method the smallest; here they are above a hundred, and what holds the photo raises them by a few
  per cent, which undoes what content gains. Whether a large model's 500 iterations would end nearer to the style than
  this one's 30, as in the paper, these figures cannot tell.
* It depends on the style. Where strokes or cells are laid over what is there (oil painting, pixel art, van Gogh) the
  whole method is first. Where areas have to be redrawn (stained glass, flat illustration) whatever holds the photo
  costs style, and the whole method is last; stained glass, whose distances are the largest, decides the mean.
* The whole method simply stands elsewhere on the same curve. One step of the knob to the left, at content 0.25, it is
  as far from the photo as each part alone, has as much style as the better of them, and is first in the last column.

What the method is for does show: against VSD, which holds nothing, content 0.25 is nearer to the photo and nearer to
the style at once, and content 0.5 gives up two per cent of Fréchet distance for a fifth of the content distance. With
every step of the knob content distance falls and Fréchet distance rises. SDEdit with the same LoRA hardly takes on a
style at any strength, while what it costs in content grows.

The preset was not tuned on these photos.
"""


def cells(figures: Mapping[str, float | None]) -> list[str]:
    """Return the figures as the table shows them; what is not known, or was not measured, is a dash."""
    return ["–" if (value := figures.get(key)) is None else form.format(value) for key, (_, form) in COLUMNS.items()]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def method_table(figures: Mapping[str, Any]) -> str:
    """Return all methods, averaged over the styles."""
    rows = [[entry["words"], *cells(entry["mean"])] for entry in figures["methods"].values()]
    return table(["method", *(words for words, _ in COLUMNS.values())], rows)


def style_table(figures: Mapping[str, Any], method: str) -> str:
    """Return one method, style by style."""
    rows = [[style, *cells(entry)] for style, entry in figures["methods"][method]["styles"].items()]
    return table(["style", *(words for words, _ in COLUMNS.values())], rows)


def paper_table(figures: Mapping[str, Any]) -> str:
    """Return the paper's ablation beside ours."""
    rows = []
    for method, (words, lpips, artfid) in PAPER.items():
        ours = cells(figures["methods"][method]["mean"])
        rows.append([words, f"{lpips:.3f}", ours[0], f"{artfid:.1f}", ours[-1]])
    return table(["SMS", "paper, LPIPS", "content distance", "paper, ArtFID", COLUMNS["both"][0]], rows)


def papers_order(figures: Mapping[str, Any]) -> bool:
    """Tell whether the ablation's rows come in the paper's order, by content and by both."""
    ours = {method: figures["methods"][method]["mean"] for method in PAPER}
    orders = [sorted(PAPER, key=lambda m, n=n: PAPER[m][n]) for n in (1, 2)]
    return all(
        sorted(PAPER, key=lambda m, k=key: ours[m][k]) == order
        for key, order in zip(("content", "both"), orders, strict=True)
    )


def circumstances(figures: Mapping[str, Any]) -> str:
    """Say how the figures came about."""
    machine, axes = figures["machine"], figures["axes"]
    return f"""\
* {figures["photos"]} photos of the held-out part `{figures["split"]}`, {len(figures["styles"])} styles, seed
  {figures["seed"]}, every method with the model's own preset; {figures["references"]} reference pictures a style, drawn
  from other photos.
* The Fréchet distance is taken along {axes["count"]} principal axes of all reference pictures, which hold
  {axes["share"]:.0%} of their variance. With {figures["photos"]} pictures it is biased upward: compare rows of this
  table, never its values with those of a paper.
* The classifier behind "recognised" is right for {figures["classifier_accuracy"]:.0%} of reference pictures it has not
  seen.
* Model `{figures["model_sha256"][:16]}`; torch {machine["torch"]}, {machine["gpu"] or machine["processor"]}."""


def render(figures: Mapping[str, Any] | None, model_sha256: str | None = None) -> str:
    """Return the page.

    Args:
        figures: what was kept, if anything was.
        model_sha256: of the model as it is now; other figures than its own are marked.
    """
    if figures is None:
        return HEAD + UNMEASURED
    stale = STALE if model_sha256 not in (None, figures["model_sha256"]) else ""
    blocks = [stale, f"\n{method_table(figures)}\n", READING]
    if USUAL in figures["methods"]:
        blocks.append(f"\n## Style by style\n\nSMS as the preset has it.\n\n{style_table(figures, USUAL)}\n")
    if all(method in figures["methods"] for method in PAPER):
        blocks.append(
            "\n## The paper's ablation\n\nOther model, style, photos and networks: the two sides share no scale, and "
            f"only the order\nwithin a column can be compared.\n\n{paper_table(figures)}\n"
        )
        blocks += [] if papers_order(figures) else [NOT_THE_PAPERS]
    return HEAD + "".join(blocks) + f"\n## How it was measured\n\n{circumstances(figures)}\n"


def kept_figures() -> dict[str, Any] | None:
    """Return the figures that are kept with the code, if there are any."""
    if not KEPT.is_file():
        return None
    figures: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    return figures


def current() -> str:
    """Return the page of the kept figures, which says so if the model has changed since."""
    figures = kept_figures()
    return render(figures, model_hash(resolve_model(figures["model"])) if figures else None)


def write_page() -> None:
    """Write the documentation's page from the kept figures."""
    with atomic(PAGE) as temporary:
        temporary.write_text(current(), encoding="utf-8")


if __name__ == "__main__":
    write_page()
