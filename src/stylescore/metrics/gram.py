"""Texture of a picture: Gram matrices of its features, and its features' nearest neighbours in pictures of the style.

Sources: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equations 3 to 5; nearest neighbour
feature matching, "ARF: Artistic Radiance Fields", ECCV 2022, equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stylescore.method.types import PerSample
from stylescore.metrics.self_similarity import Positions

ROWS = 1024
"""Positions that are compared with all positions of a style at once."""


def gram_matrix(x: Positions) -> Float[Tensor, "batch channels channels"]:
    """Return F^T F / positions: the mean products of every two channels."""
    return x.transpose(1, 2) @ x / x.shape[1]


def relative_gram_distance(
    first: Sequence[Float[Tensor, "n _c _c"]], second: Sequence[Float[Tensor, "m _c _c"]]
) -> Float[Tensor, "n m"]:
    """Return the distance of Gram matrices of every picture with every other, averaged over the levels.

    At each level it is |G - H| / (|G| + |H|) in the Frobenius norm: 0 for equal textures, at most 1, and independent of
    the scale of the features, which differs by orders of magnitude between levels.
    """
    flat = [(a.flatten(1), b.flatten(1)) for a, b in zip(first, second, strict=True)]
    return torch.stack([_relative(torch.cdist(a, b), a[:, None], b) for a, b in flat]).mean(dim=0)


def paired_gram_distance(
    first: Sequence[Float[Tensor, "n _c _c"]], second: Sequence[Float[Tensor, "n _c _c"]]
) -> PerSample:
    """Return the same distance of each picture and its own partner alone, differentiable in both."""
    flat = [(a.flatten(1), b.flatten(1)) for a, b in zip(first, second, strict=True)]
    return torch.stack([_relative((a - b).norm(dim=1), a, b) for a, b in flat]).mean(dim=0)


def _relative(difference: Tensor, first: Tensor, second: Tensor) -> Tensor:
    sizes: Tensor = first.norm(dim=-1) + second.norm(dim=-1)
    return difference / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)  # two black pictures are at 0


def nearest_neighbour_distance(x: Positions, style: Float[Tensor, "others channels"], rows: int = ROWS) -> PerSample:
    """Return the mean over positions of the cosine distance to the most similar vector of a style, from 0 to 2.

    Args:
        x: features of pictures.
        style: vectors of pictures of the style.
        rows: positions that are compared at once; their number does not change the result.
    """
    unit, other = functional.normalize(x, dim=2), functional.normalize(style, dim=1)
    best = [(block @ other.T).amax(dim=2).sum(dim=1) for block in torch.split(unit, rows, dim=1)]
    return 1 - torch.stack(best).sum(dim=0) / x.shape[1]
