"""The one knob between style and content."""

from __future__ import annotations

from dataclasses import replace

from stylescore.config import MethodConfig


def spectrum_factor(content: float, largest: float) -> float:
    """Return what lambda is multiplied with: 0 at 0, 1 at 0.5, `largest` at 1, rising throughout."""
    if content <= 0.5:
        return 2 * content
    return float(largest ** (2 * content - 1))


def relevance_factor(content: float) -> float:
    """Return what the map's strength is multiplied with: 0 at 0, 1 from 0.5 on."""
    return min(1.0, 2 * content)


def with_content(method: MethodConfig, content: float) -> MethodConfig:
    """Return the method with lambda and the map's strength moved by the knob.

    Args:
        method: a preset; it is what 0.5 stands for.
        content: 0 strongest style (nothing held, no map) to 1 strongest content.
    """
    weight = method.spectrum.weight * spectrum_factor(content, method.spectrum.largest_factor)
    strength = method.relevance.strength * relevance_factor(content)
    return replace(
        method,
        spectrum=replace(method.spectrum, weight=weight),
        relevance=replace(method.relevance, strength=strength),
    )
