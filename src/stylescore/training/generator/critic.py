"""A critic that tells a generator's pictures from those of the pairs, so that the mean of all possible strokes loses.

Small heads on the features of a frozen denoising network, as in "Improved Distribution Matching Distillation for Fast
Image Synthesis", NeurIPS 2024, section 4.3, and on the latent itself; relativistic loss of pairs and zero-centred
gradient penalties on both sides as in "The GAN is dead; long live the GAN! A Modern GAN Baseline", arXiv 2501.05441.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylescore.method.types import Latent, PerSample

WIDTH = 64
"""Channels inside a head."""
PENALTY = 0.003
"""Weight of the squared gradient of a head's sum, for inputs of unit mean square and times their channels: it does not
depend on how many there are."""
LEARNING_RATE = 2e-3
"""Of the critic's Adam, whose first moment is 0 as in the baseline."""
BETAS = (0.0, 0.99)


class Critic(nn.Module):
    """Small heads, one for each level of what is known of a picture: its latent, then features of it.

    Args:
        channels: of each level.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, *others = channels
        self.heads = nn.ModuleList([_head(first, 3), *(_head(count, 1) for count in others)])

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Return a logit for each position of each level; larger ones say that it is a pair's.

        Args:
            levels: as `to_levels` returns them.
        """
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


def _head(channels: int, kernel: int) -> nn.Sequential:
    """Return three layers; those on features see one position, which has surroundings of its own in it."""
    pad = kernel // 2
    return nn.Sequential(
        nn.Conv2d(channels, WIDTH, kernel, padding=pad),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, WIDTH, kernel, padding=pad),
        nn.LeakyReLU(0.2),
        nn.Conv2d(WIDTH, 1, 1, bias=False),  # only differences of logits count
    )


def to_levels(latent: Latent, features: Sequence[Tensor]) -> list[Tensor]:
    """Return what a critic sees of pictures, each [batch, c, h, w].

    Args:
        latent: of the pictures.
        features: [batch, c, h, w] or [batch, tokens, c]; they are scaled to a mean square of 1 at each position.
    """
    maps = [part if part.ndim == 4 else part.transpose(1, 2).unsqueeze(-1) for part in features]
    return [latent, *(F.normalize(part, dim=1, eps=1e-6) * part.shape[1] ** 0.5 for part in maps)]


def adversarial_loss(critic: Critic, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> PerSample:
    """Return how far the critic prefers the pairs' pictures to the generator's, differentiable in the latter.

    Args:
        critic: log(2) where it cannot tell them apart.
        ours: levels of the generator's pictures.
        theirs: levels of the pairs' pictures, of the same photos.
    """
    with torch.no_grad():
        wanted = critic(theirs)
    return _preference(critic(ours), wanted)


def critic_loss(critic: Critic, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> PerSample:
    """Return the critic's own loss, with the penalties; nothing flows back into the levels."""
    sides = [[level.detach().requires_grad_() for level in levels] for levels in (ours, theirs)]
    fake, real = (critic(levels) for levels in sides)
    penalties = [_penalty(levels, logits) for levels, logits in zip(sides, (fake, real), strict=True)]
    return _preference(real, fake) + PENALTY * (penalties[0] + penalties[1])


def _preference(first: Sequence[Tensor], second: Sequence[Tensor]) -> PerSample:
    """Return the mean of softplus(second - first) over positions and levels: small where the first is larger."""
    losses = [F.softplus(b - a).flatten(1).mean(dim=1) for a, b in zip(first, second, strict=True)]
    return torch.stack(losses).mean(dim=0)


def _penalty(levels: Sequence[Tensor], logits: Sequence[Tensor]) -> PerSample:
    """Return the squared gradient of the summed logits at a position, times its channels: the mean over all."""
    gradients = torch.autograd.grad([part.sum() for part in logits], levels, create_graph=True)
    parts = [gradient.square().sum(dim=1).flatten(1).mean(dim=1) * gradient.shape[1] for gradient in gradients]
    return torch.stack(parts).mean(dim=0)
