"""Scores of a network under prompts, and how many calls of the network they take: this is decided here alone.

Rows of one batch can belong to different scores, each with its own prompt and adapters, so all scores of one network
can be evaluated in one call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stylescore.diffusion.adapters import Route, TrainedAdapter
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.method.scores import Combine, Predictions, ScoreName, score_latent
from stylescore.method.types import Draw, Latent, Noise, Timesteps


@dataclass(frozen=True)
class PromptedScore:
    """A score of a network under a prompt.

    Attributes:
        backbone: the network.
        conditional: encoded prompts, one per sample.
        unconditional: the encoded empty or negative prompt, one per sample.
        combine: makes the score of the conditional and the unconditional prediction; `None` takes the conditional one
            and does not make the other.
        style: whether the style adapter acts.
        fake: the fake adapter that acts, or `None`.
    """

    backbone: Backbone
    conditional: Conditioning
    unconditional: Conditioning
    combine: Combine | None = None
    style: bool = False
    fake: TrainedAdapter | None = None

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Evaluate this score in a call of its own."""
        (eps,) = predict_batched([self], [z_t], t)
        return eps

    @property
    def conditionings(self) -> list[Conditioning]:
        """What each prediction of a sample is conditioned on: one entry, or two with the empty prompt."""
        return [self.conditional] if self.combine is None else [self.conditional, self.unconditional]

    @property
    def adapter_order(self) -> int:
        """Where its rows stand in a batch: style rows first, then those of the fake adapter, then plain ones."""
        return 0 if self.style else 1 if self.fake is not None else 2

    def finish(self, predictions: Tensor) -> Noise:
        """Return the score from its predictions, [copies batch, c, h, w], the conditional ones first."""
        return predictions if self.combine is None else self.combine(*predictions.chunk(2))


@dataclass(frozen=True)
class BatchedScores:
    """The scores of a run.

    Attributes:
        scores: by name.
        batched: whether scores that share a network are evaluated in one call.
    """

    scores: Mapping[ScoreName, PromptedScore]
    batched: bool = True

    def __getitem__(self, name: ScoreName) -> PromptedScore:
        """Return one score."""
        return self.scores[name]

    def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
        """Evaluate scores at a draw: one call for each network, or for each score."""
        found: dict[ScoreName, Noise] = {}
        for group in self._groups(names):
            scores, latents = [self.scores[name] for name in group], [score_latent(draw, name) for name in group]
            found |= zip(group, predict_batched(scores, latents, draw.t), strict=True)
        return found

    def _groups(self, names: Collection[ScoreName]) -> Iterator[list[ScoreName]]:
        """Yield the names whose scores go into one call, in the order of their rows."""
        if not self.batched:
            yield from ([name] for name in names)
            return
        networks = {id(self.scores[name].backbone): self.scores[name].backbone for name in names}
        for backbone in networks.values():
            group = [name for name in names if self.scores[name].backbone is backbone]
            yield sorted(group, key=lambda name: self.scores[name].adapter_order)


def predict_batched(scores: Sequence[PromptedScore], latents: Sequence[Latent], t: Timesteps) -> list[Noise]:
    """Evaluate scores of one network in one call.

    Args:
        scores: on the same backbone, ordered by `adapter_order`.
        latents: the noised latent of each score, [batch, c, h, w].
        t: one timestep per sample, shared by all scores.

    Returns:
        Each score, shaped like its latent.
    """
    copies = [len(score.conditionings) for score in scores]
    # [sum(copies) batch, c, h, w]: score by score, the conditional copies of a score before its unconditional ones
    z_t = torch.cat([latent for latent, count in zip(latents, copies, strict=True) for _ in range(count)])
    conditioning = concatenate([part for score in scores for part in score.conditionings])
    backbone = scores[0].backbone
    eps = backbone(z_t, t.repeat(sum(copies)), conditioning, _route(scores, copies, len(t), z_t.device))
    parts = torch.split(eps, [len(t) * count for count in copies])
    return [score.finish(part) for score, part in zip(scores, parts, strict=True)]


def _route(scores: Sequence[PromptedScore], copies: Sequence[int], batch: int, device: torch.device) -> Route:
    """Return the adapters of a call's rows: style on the first, fake on those that follow."""
    counted = list(zip(scores, copies, strict=True))
    style = batch * sum(count for score, count in counted if score.style)
    fake = batch * sum(count for score, count in counted if score.fake is not None)
    rows = batch * sum(copies)
    return Route(
        style=style > 0,
        trained=next((score.fake for score in scores if score.fake is not None), None),
        samples=_samples(fake, batch, device) if fake else None,
        style_rows=None if style == rows else (0, style),
        trained_rows=None if fake == rows else (style, style + fake),
    )


def _samples(rows: int, batch: int, device: torch.device) -> Tensor:
    return torch.arange(rows, device=device) % batch


def batching_is_faster(batch: int, device: torch.device) -> bool:
    """Tell whether one call is expected to be faster than one for each score.

    A GPU has room for more rows; a CPU gains from one picture's rows only, and loses with more (see the page "Fewer
    passes" for what was measured).
    """
    return batch == 1 or device.type != "cpu"
