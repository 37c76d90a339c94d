"""Builds probes from the weights that were found; the one place where a probe's name becomes an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from stylescore.catalog.places import Found
from stylescore.evaluation.probes import (
    CfsdProbe,
    ClipProbe,
    FeatureProbe,
    FocusProbe,
    HistogramProbe,
    LpipsProbe,
    PickScoreProbe,
    Probe,
    StructureProbe,
    TextureProbe,
    make_hed,
    make_vgg19,
)
from stylescore.metrics.csd import StyleEmbedding
from stylescore.metrics.inception import Inception
from stylescore.metrics.lpips import Lpips
from stylescore.metrics.mobilenet import MobileNetFeatures
from stylescore.metrics.perceptual import PerceptualDistance
from stylescore.metrics.states import State, read_state

WEIGHTS: Mapping[str, Sequence[str]] = {
    "lpips-alex": ("alexnet", "lpips-alex"),
    "lpips-vgg": ("vgg16", "lpips-vgg"),
    "cfsd": ("vgg19",),
    "dino": ("dino",),
    "inception": ("inception",),
    "art": ("art-inception",),
    "csd": ("csd",),
    "histogram": (),
    "pickscore": ("pickscore",),
    "clip": ("clip",),
    "st-lpips": ("st-lpips",),
    "hed": ("hed",),
    "focus": ("focus",),
    "mobilenet": ("mobilenet",),
}
"""The weights that each probe needs, by their names in `places`."""


def load_probe(name: str, found: Sequence[Found], device: torch.device) -> Probe:
    """Build a probe from its weights, in the order of `WEIGHTS`, on a device.

    Raises:
        ModelError: they cannot be read, or are those of another network.
    """
    paths = [each.path for each in found]
    match name:
        case "dino":
            return StructureProbe(paths[0], device)
        case "clip":
            return ClipProbe(paths[0], device)
        case "pickscore":
            return PickScoreProbe(paths[0], device)
        case "focus":
            return FocusProbe(paths[0])
        case "histogram":
            return HistogramProbe()
        case _:
            return _from_states(name, [read_state(path) for path in paths], device)


def _from_states(name: str, states: Sequence[State], device: torch.device) -> Probe:
    state = states[0]
    match name:
        case "lpips-alex":
            return LpipsProbe(Lpips.with_alexnet(*states).to(device), name, grey_name="lpips-grey")
        case "lpips-vgg":
            return LpipsProbe(Lpips.with_vgg(*states).to(device), name)
        case "st-lpips":
            return LpipsProbe(PerceptualDistance.from_state(state).to(device), name)
        case "cfsd":
            return CfsdProbe(make_vgg19(state).to(device))
        case "hed":
            return TextureProbe(make_hed(state).to(device))
        case "inception" | "art":
            return FeatureProbe(Inception.from_state(state, of_2015=name == "inception").to(device), name)
        case "csd":
            return FeatureProbe(StyleEmbedding.from_state(state).to(device), name)
        case "mobilenet":
            return FeatureProbe(MobileNetFeatures.from_state(state).to(device), name)
        case _:
            raise AssertionError(f"there is no probe {name!r}")
