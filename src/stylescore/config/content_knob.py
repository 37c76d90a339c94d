"""The one knob between style and content."""

from __future__ import annotations

from dataclasses import replace

from stylescore.config.method import GatysConfig, MethodConfig, RelevanceConfig, SpectrumConfig, StyleIdConfig
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError

WITH_STRENGTH = ("sdedit", "styleid", "freestyle", "instantstyle", "adain", "ghiasi")
"""Methods that have a strength."""


def spectrum_factor(content: float, spectrum: SpectrumConfig) -> float:
    """Return what lambda is multiplied with: `smallest_factor` at 0, 1 at 0.5, `largest_factor` at 1.

    In between by equal ratios, since the effect of lambda is felt in ratios; linear below 0.5 where it begins at 0.
    """
    if content > 0.5:
        return float(spectrum.largest_factor ** (2 * content - 1))
    if spectrum.smallest_factor == 0:
        return 2 * content
    return float(spectrum.smallest_factor ** (1 - 2 * content))


def relevance_strength(content: float, relevance: RelevanceConfig) -> float:
    """Return the map's strength: 0 at 0, the preset's at 0.5, `largest_strength` at 1 if that is more."""
    largest = max(relevance.strength, relevance.largest_strength)
    if content <= 0.5:
        return relevance.strength * 2 * content
    return relevance.strength + (largest - relevance.strength) * (2 * content - 1)


def sampling_strength(content: float, strength: float) -> float:
    """Return a rival's strength, but StyleID's: 1 at 0, the preset's at 0.5, 0 at 1; linear in between."""
    if content <= 0.5:
        return 1 - (1 - strength) * 2 * content
    return strength * 2 * (1 - content)


def styleid_gamma(content: float, styleid: StyleIdConfig) -> float:
    """Return StyleID's share of the photo's queries: 0 at 0, the preset's at 0.5, 1 at 1; linear in between."""
    if content <= 0.5:
        return styleid.gamma * 2 * content
    return styleid.gamma + (1 - styleid.gamma) * (2 * content - 1)


def gatys_weights(content: float, gatys: GatysConfig) -> GatysConfig:
    """Return the weights of Gatys et al.: no content at 0, the preset's at 0.5, no style at 1, by fourth powers.

    What a weight does is felt in its logarithm: a factor of 16 is needed for a visible step.
    """
    return replace(
        gatys,
        content_weight=gatys.content_weight * min(1.0, 2 * content) ** 4,
        style_weight=gatys.style_weight * min(1.0, 2 * (1 - content)) ** 4,
    )


def with_content(method: MethodConfig, content: float) -> MethodConfig:
    """Return the method with lambda, the map's strength, and the samplers' numbers moved by the knob.

    Args:
        method: a preset; it is what 0.5 stands for.
        content: 0 strongest style to 1 strongest content.
    """
    weight = method.spectrum.weight * spectrum_factor(content, method.spectrum)
    strength = relevance_strength(content, method.relevance)
    moved = {
        name: replace(part, strength=sampling_strength(content, part.strength))
        for name, part in ((name, getattr(method, name)) for name in WITH_STRENGTH if name != "styleid")
    }
    return replace(
        method,
        styleid=replace(method.styleid, gamma=styleid_gamma(content, method.styleid)),
        gatys=gatys_weights(content, method.gatys),
        **moved,
        spectrum=replace(method.spectrum, weight=weight),
        relevance=replace(method.relevance, strength=strength),
    )


def with_strength(method: MethodConfig, strength: float | None) -> MethodConfig:
    """Return a method with its strength replaced, if one is given.

    Raises:
        ConfigError: the method has none.
    """
    if strength is None:
        return method
    if method.method not in WITH_STRENGTH:
        names = f"{', '.join(WITH_STRENGTH[:-1])} and {WITH_STRENGTH[-1]}"
        raise ConfigError(
            f"strength is of the methods {names}, not of {method.method}",
            hint="give --method sdedit, or --content in place of --strength",
        )
    return overlay(method, {method.method: {"strength": strength}})
