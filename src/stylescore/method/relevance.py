"""Semantic-Aware Gradient Refinement: a map in [0, 1] that says where to stylize."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import Predictions, ScoreName, Scores
from stylescore.method.types import Draw, Latent, Map, Noise


class Relevance(Protocol):
    """Turns noise predictions at a draw into a map that multiplies the direction."""

    @property
    def needs(self) -> Collection[ScoreName]:
        """The scores whose predictions it takes."""
        ...

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        """Return a map in [0, 1], one per sample."""
        ...


Reduction = Callable[[Noise], Map]


def mean_then_absolute(contrast: Noise) -> Map:
    """|mean over the channels|: the released code's order."""
    return contrast.mean(dim=1, keepdim=True).abs()


def absolute_then_mean(contrast: Noise) -> Map:
    """Mean over the channels of |.|: the order the paper's text reads as; signs cannot cancel."""
    return contrast.abs().mean(dim=1, keepdim=True)


def normalise(raw: Map, upper: float = 1.0) -> Map:
    """Stretch each sample's map to [0, 1]; a flat map becomes ones.

    Args:
        raw: non-negative map.
        upper: the quantile, in (0, 1], that maps to one; what lies above is clamped. 1 is min-max as in the
            released code; 0.95 keeps one outlying cell from taking the whole range.
    """
    flat = raw.flatten(1)
    low = flat.min(dim=1).values.view(-1, 1, 1, 1)
    high = (flat.max(dim=1).values if upper >= 1 else flat.quantile(upper, dim=1)).view(-1, 1, 1, 1)
    span = high - low
    stretched = ((raw - low) / torch.where(span > 0, span, 1)).clamp(0, 1)
    return torch.where(span > 0, stretched, torch.ones_like(stretched))


@dataclass(frozen=True)
class UniformRelevance:
    """The same for all of the picture: no refinement."""

    needs: ClassVar[tuple[ScoreName, ...]] = ()

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        """Return ones."""
        del eps
        return torch.ones_like(draw.z[:, :1])


@dataclass(frozen=True, kw_only=True)
class SemanticRelevance:
    """R = norm01 |eps_real(z_source_t; edit prompt) - eps_real(z_source_t; "")| (paper, SAGR).

    Attributes:
        reduce: how the channels become one number.
        upper: quantile that maps to one, see `normalise`.
        strength: 1 uses the map as it is, 0 ignores it; between, 1 - strength + strength R.
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ("edit",)
    reduce: Reduction = mean_then_absolute
    upper: float = 1.0
    strength: float = 1.0

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        """Return the map of the source, never of the current picture."""
        del draw
        raw = self.reduce(eps["edit"])
        return 1 - self.strength + self.strength * normalise(raw, self.upper)


@dataclass(frozen=True)
class PrecomputedRelevance:
    """Maps of one source made before the run; a step uses that of the nearest timestep.

    Attributes:
        timesteps: at which they were made, [n].
        maps: [n, batch, 1, height, width].
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ()
    timesteps: Tensor
    maps: Tensor

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        """Look up each sample's map."""
        del eps
        nearest = (draw.t[:, None] - self.timesteps).abs().argmin(dim=1)
        return self.maps[nearest, torch.arange(len(nearest), device=nearest.device)]


@dataclass(frozen=True)
class MaskedRelevance:
    """Another map times a mask that does not change with the step: M R.

    Attributes:
        inner: makes the map R.
        mask: M in [0, 1], one per sample; 0 where the picture is to stay as it is.
    """

    inner: Relevance
    mask: Map

    @property
    def needs(self) -> Collection[ScoreName]:
        """The scores of the inner map."""
        return self.inner.needs

    def __call__(self, draw: Draw, eps: Predictions) -> Map:
        """Return the inner map times the mask."""
        return self.inner(draw, eps) * self.mask


def resize_maps(maps: PrecomputedRelevance, height: int, width: int) -> PrecomputedRelevance:
    """Return the maps at another size, bilinear."""
    count, batch = maps.maps.shape[:2]
    resized = F.interpolate(maps.maps.flatten(0, 1), (height, width), mode="bilinear", antialias=True)
    return PrecomputedRelevance(maps.timesteps, resized.reshape(count, batch, 1, height, width))


def evenly_spaced(t_min: int, t_max: int, count: int) -> Tensor:
    """Return the middles of `count` equal parts of [t_min, t_max], int64."""
    width = (t_max - t_min) / count
    return torch.tensor([round(t_min + (part + 0.5) * width) for part in range(count)])


@torch.no_grad()
def precompute(
    relevance: Relevance, schedule: NoiseSchedule, scores: Scores, z_source: Latent, timesteps: Tensor, eps: Tensor
) -> PrecomputedRelevance:
    """Make the maps of a source that does not change.

    Args:
        relevance: makes one map.
        schedule: noise schedule of the diffusion model.
        scores: the scores it needs.
        z_source: latents of the source pictures, [batch, c, h, w].
        timesteps: [n].
        eps: noise for each of them, [n, batch, c, h, w].
    """
    timesteps = timesteps.to(z_source.device)
    maps = []
    for t, noise in zip(timesteps, eps, strict=True):
        draw = schedule.draw(z_source, z_source, t=t.expand(len(z_source)), eps=noise)
        maps.append(relevance(draw, scores.predict(draw, relevance.needs)))
    return PrecomputedRelevance(timesteps, torch.stack(maps))
