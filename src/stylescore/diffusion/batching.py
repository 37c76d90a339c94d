"""Several scores of one draw in one call of the network: rows of one batch, each on its own branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stylescore.diffusion.adapters import Route
from stylescore.diffusion.backbone import Backbone, Prompted
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.method.scores import Finish, ScoreName, asked_at
from stylescore.method.types import Draw, Latent, Noise, Timesteps


@dataclass(frozen=True)
class Ask:
    """A score by what is asked of the network, and what is made of the answers.

    Attributes:
        prompted: whom to ask.
        finish: makes the score of the conditional and the unconditional prediction; `None` where the conditional one
            is the score and the other is not asked.
    """

    prompted: Prompted
    finish: Finish | None

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Ask this score alone."""
        return self.prompted.alone(z_t, t) if self.finish is None else self.finish(*self.prompted.pair(z_t, t))

    @property
    def copies(self) -> int:
        """Rows that a sample takes."""
        return 1 if self.finish is None else 2

    def conditioning(self) -> list[Conditioning]:
        """Return what each copy is told."""
        prompted = self.prompted
        return [prompted.conditional, prompted.unconditional][: self.copies]

    def finished(self, answers: Tensor) -> Noise:
        """Return the score from the predictions of all copies, one after another, [copies batch, c, h, w]."""
        return answers if self.finish is None else self.finish(*answers.chunk(2))


@dataclass(frozen=True)
class Joint:
    """Asks scores together, as far as they share a network.

    Attributes:
        asks: the scores by name.
    """

    asks: Mapping[ScoreName, Ask]

    def __call__(self, draw: Draw, names: Sequence[ScoreName]) -> dict[ScoreName, Noise]:
        """Return each score's answer: one call for each network, style rows first, then fake rows, then plain ones."""
        found: dict[ScoreName, Noise] = {}
        for backbone in unique([self.asks[name].prompted.backbone for name in names]):
            group = sorted((n for n in names if self.asks[n].prompted.backbone is backbone), key=self.rank)
            found |= self.call(backbone, draw, group)
        return found

    def rank(self, name: ScoreName) -> int:
        """Return the place of a score's rows in a batch."""
        prompted = self.asks[name].prompted
        return 0 if prompted.style else 1 if prompted.fake else 2

    def call(self, backbone: Backbone, draw: Draw, names: Sequence[ScoreName]) -> dict[ScoreName, Noise]:
        """Return the answers of scores on one network, from one call."""
        asks, batch = [self.asks[name] for name in names], len(draw.t)
        latents = [asked_at(draw, name) for name, ask in zip(names, asks, strict=True) for _ in range(ask.copies)]
        told = [part for ask in asks for part in ask.conditioning()]
        eps = backbone(
            torch.cat(latents), draw.t.repeat(len(latents)), concatenate(told), route(asks, batch, draw.t.device)
        )
        parts = torch.split(eps, [batch * ask.copies for ask in asks])
        return {name: ask.finished(part) for name, ask, part in zip(names, asks, parts, strict=True)}


def pays(batch: int, device: torch.device) -> bool:
    """Tell whether one call is expected to be faster than one for each score.

    A GPU has room for more rows; a CPU gains from one picture's rows only, and loses with more (see the page "Fewer
    passes" for what was measured).
    """
    return batch == 1 or device.type != "cpu"


def unique(backbones: Sequence[Backbone]) -> list[Backbone]:
    """Return each object once, in order."""
    return list({id(backbone): backbone for backbone in backbones}.values())


def route(asks: Sequence[Ask], batch: int, device: torch.device) -> Route:
    """Return the branches of a joint call's rows: style on the first, fake on those that follow."""
    style = sum(ask.copies for ask in asks if ask.prompted.style) * batch
    fake = sum(ask.copies for ask in asks if ask.prompted.fake) * batch
    samples: Tensor | None = torch.arange(fake, device=device) % batch if fake else None
    return Route(style=style > 0, samples=samples, style_rows=(0, style), fake_rows=(style, style + fake))
