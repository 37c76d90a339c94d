"""The plot of content against style, one curve for each method over its knob, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from stylescore.benchmark.results import StyleResults

CONTENT = ("lpips-alex", "lpips-vgg", "cfsd", "dino-structure", "st-lpips", "hed-structure", "focus-distance")
"""Measures of content, the first that was computed is the horizontal axis."""
STYLE = ("art-fid", "fid", "csd", "clip-score", "kid", "mobilenet-frechet", "hed-gram", "hed-neighbours", "histogram")
"""Measures of style, the first that was computed is the vertical axis."""
COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#8e44ad", "#b9770e", "#17a2b8", "#5d6d7e", "#1b1b1b")
MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.5L5.5 4.5H-5.5z",
    "M0 -6L6 0L0 6L-6 0z",
)
"""Outlines about the origin: circle, square, triangle, diamond. Each is used with all colours before the next."""
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
WIDTH, HEIGHT = 720, 460
LEFT, TOP, RIGHT, BOTTOM = 76, 44, 190, 56
LEGEND_LINE = 18
NUMBER = (26.0, 11.0)
"""Width and height of a knob's number; one that would lie on another is left out."""
TICKS = 5
_FONT = 'font-family="sans-serif" font-size="12"'


@dataclass(frozen=True)
class Curve:
    """A method's points in the order of its knob.

    Attributes:
        label: the method.
        points: content figure, style figure, and where the knob stands.
    """

    label: str
    points: Sequence[tuple[float, float, float]]


def axes(results: StyleResults) -> tuple[str, str] | None:
    """Return the measures of content and style that are plotted, or `None` if there are not both."""
    known = {name for scores in results.report.scores.values() for name in scores}
    first = [next((name for name in names if name in known), None) for names in (CONTENT, STYLE)]
    return None if first[0] is None or first[1] is None else (first[0], first[1])


def make_curves(results: StyleResults, content: str, style: str) -> list[Curve]:
    """Return a curve for each method, and for each ablation a point."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for row in results.rows:
        x, y = results.score(row, content), results.score(row, style)
        if x is not None and y is not None:
            curves.setdefault(row.variant.label, []).append((x.value, y.value, row.content))
    return [Curve(label, sorted(points, key=lambda point: point[2])) for label, points in curves.items()]


def pareto_svg(results: StyleResults) -> str | None:
    """Return the plot, or `None` if a measure of content or of style is missing."""
    names = axes(results)
    if names is None:
        return None
    curves = make_curves(results, *names)
    if not curves:
        return None
    labels = [f"{name}: {results.metrics[name].what} ({_direction(results.metrics[name].better)})" for name in names]
    return draw(curves, labels[0], labels[1])


def _direction(better: str) -> str:
    return "smaller is better" if better == "lower" else "larger is better"


def draw(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """Return curves in a frame with ticks and a legend, as SVG."""
    points = [point for curve in curves for point in curve.points]
    x_range, y_range = _range([point[0] for point in points]), _range([point[1] for point in points])
    height = max(HEIGHT, TOP + LEGEND_LINE * (len(curves) + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" {_FONT}>',
        f"<title>{escape(x_label)} against {escape(y_label)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_frame(x_range, y_range, x_label, y_label),
    ]
    numbers: list[tuple[float, float]] = []
    for number, curve in enumerate(curves):
        parts += _curve(curve, number, x_range, y_range, numbers)
    return "\n".join([*parts, "</svg>", ""])


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis with a margin; a single value gets some room around it."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _x(value: float, ends: tuple[float, float]) -> float:
    return LEFT + (value - ends[0]) / (ends[1] - ends[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ends: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (value - ends[0]) / (ends[1] - ends[0]) * (HEIGHT - TOP - BOTTOM)


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers within a range, about `TICKS` of them."""
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [step * number for number in range(first, math.floor(high / step) + 1)]


def _frame(x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#444"/>',
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="8" y="{TOP - 20}">{escape(y_label)}</text>',
    ]
    for value in ticks(*x_range):
        x = _x(value, x_range)
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{value:.4g}</text>')
    for value in ticks(*y_range):
        y = _y(value, y_range)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#eee"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    return parts


def _curve(
    curve: Curve,
    number: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    numbers: list[tuple[float, float]],
) -> list[str]:
    """Return a curve with its points, each of which names the knob's stand, and its entry of the legend.

    Args:
        curve: the curve.
        number: of the curve, which decides colour, mark and dashes.
        x_range: ends of the horizontal axis.
        y_range: ends of the vertical axis.
        numbers: places of the knob's numbers so far; those of this curve are added.
    """
    colour, style = COLOURS[number % len(COLOURS)], number // len(COLOURS) % len(MARKS)
    places = [(_x(x, x_range), _y(y, y_range), content) for x, y, content in curve.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    dashes = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{DASHES[style]}"'
    parts = [f'<polyline points="{line}" fill="none" {dashes}/>'] if len(places) > 1 else []
    for x, y, content in places:
        parts.append(_mark(x, y, colour, style, f"{curve.label}, {content:g}"))
        if len(places) > 1 and _is_free(x, y, numbers):
            numbers.append((x, y))
            parts.append(f'<text x="{x + 7:.1f}" y="{y - 6:.1f}" font-size="10" fill="{colour}">{content:g}</text>')
    top, legend = TOP + 14 + LEGEND_LINE * number, WIDTH - RIGHT + 16
    parts.append(_mark(legend, top - 4, colour, style))
    parts.append(f'<text x="{legend + 12}" y="{top}">{escape(curve.label)}</text>')
    return parts


def _mark(x: float, y: float, colour: str, style: int, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="{MARKS[style]}" transform="translate({x:.1f} {y:.1f})" fill="{colour}">{inside}</path>'


def _is_free(x: float, y: float, numbers: Sequence[tuple[float, float]]) -> bool:
    """Return whether a number at a point would lie on no other."""
    return all(abs(x - other) > NUMBER[0] or abs(y - above) > NUMBER[1] for other, above in numbers)
