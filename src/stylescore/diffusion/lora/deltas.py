"""A low-rank change of one weight, and the sum of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """The change `scale * up @ down` of one linear or convolution weight.

    Attributes:
        down: [rank, in] for a linear layer, [rank, in, kh, kw] for a convolution.
        up: [out, rank] for a linear layer, [out, rank, 1, 1] for a convolution.
        scale: alpha / rank, or 1 where the file gives no alpha.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Number of rows of `down`."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed: [out, in] or [out, in, kh, kw]."""
        return (self.up.shape[0], *self.down.shape[1:])

    def dense(self) -> Tensor:
        """Return the change as one tensor, shaped like the weight it is added to."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return self.scale * product.reshape(self.shape)

    def folded(self, weight: float) -> LowRank:
        """Return `weight` times the same change, with every factor in `up` and scale 1."""
        return LowRank(self.down, self.up * (self.scale * weight), 1.0)


def stack(parts: Sequence[tuple[Mapping[str, LowRank], float]]) -> dict[str, LowRank]:
    """Add several bound LoRAs, each with its strength.

    Changes of the same module are laid side by side along the rank, so the sum of ranks r1 and r2 has rank
    r1 + r2 and its `dense()` is the weighted sum of theirs. Strengths and scales end up in `up`.

    Args:
        parts: pairs of what `bind` returned and a strength.
    """
    gathered: dict[str, list[LowRank]] = {}
    for changes, weight in parts:
        for module, change in changes.items():
            gathered.setdefault(module, []).append(change.folded(weight))
    return {module: _side_by_side(changes) for module, changes in gathered.items()}


def _side_by_side(changes: Sequence[LowRank]) -> LowRank:
    down = torch.cat([change.down for change in changes], dim=0)
    up = torch.cat([change.up for change in changes], dim=1)
    return LowRank(down, up, 1.0)
