"""Structure of a picture as the similarity of its parts with each other: CFSD, and the structure distance of DINO.

Sources: CFSD, "Style Injection in Diffusion", CVPR 2024, section on metrics, with the constants of its released code;
structure distance, "Splicing ViT Features for Semantic Appearance Transfer", CVPR 2022, equation 4.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stylescore.method.types import PerSample

Positions = Float[Tensor, "batch positions channels"]
ROWS = 1024
"""Rows of the similarity matrix that are held in memory at once; 16,384 columns of 512 pixels take 64 MiB each time."""


def positions_of(activation: Float[Tensor, "batch channels height width"]) -> Positions:
    """Return an activation's vectors, one row for each position."""
    return activation.flatten(2).transpose(1, 2)


def cfsd(content: Positions, stylized: Positions, rows: int = ROWS) -> PerSample:
    """Return the content feature structural distance of every pair.

    With S = F F^T / c^2 and P its softmax along the rows, it is the sum over rows of KL(P_content || P_stylized): 0 for
    equal features, without an upper bound, larger for more positions. Blocks of `rows` rows are computed one after the
    other, so that no whole matrix is ever held; their number does not change the result.

    Args:
        content: features of the photos, from VGG19 after relu3_1.
        stylized: features of the stylized pictures, of the same shape.
        rows: of the similarity matrix that are computed at once.
    """
    found = torch.zeros(len(content), dtype=torch.float64)  # on the CPU: Apple's GPUs have no float64
    content, stylized = content / content.shape[2], stylized / stylized.shape[2]
    for start in range(0, content.shape[1], rows):
        p, q = (_log_rows(x, start, start + rows) for x in (content, stylized))
        found += _divergence(p, q).sum(dim=(1, 2)).cpu().double()
    return found.float()


def _divergence(
    log_p: Float[Tensor, "batch rows positions"], log_q: Float[Tensor, "batch rows positions"]
) -> Float[Tensor, "batch rows positions"]:
    """Return p log(p / q) - p + q, whose sum over a row is KL(p || q).

    As each row sums to 1, the last two terms cancel; with them no entry is negative, and the rounding of 16,384
    logarithms does not add up to more than the divergence of two similar pictures.
    """
    p, q, ratio = log_p.exp(), log_q.exp(), log_p - log_q
    difference = torch.where(ratio.abs() < 1, p * torch.expm1(-ratio), q - p)
    return p * ratio + difference


def _log_rows(x: Positions, start: int, stop: int) -> Float[Tensor, "batch rows positions"]:
    """Return some rows of log softmax(X X^T)."""
    return torch.log_softmax(x[:, start:stop] @ x.transpose(1, 2), dim=2)


def structure_distance(first: Positions, second: Positions, rows: int = ROWS) -> PerSample:
    """Return the mean squared difference of two pictures' matrices of cosine similarities, from 0 to 4.

    Blocks of `rows` rows are computed one after the other, as for `cfsd`.

    Args:
        first: the keys of a vision transformer's last layer, one row for each token.
        second: those of the other pictures, of the same shape.
        rows: of the similarity matrices that are computed at once.
    """
    a, b = (functional.normalize(x, dim=2) for x in (first, second))
    total = torch.zeros(len(a), dtype=torch.float64)
    for start in range(0, a.shape[1], rows):
        difference = a[:, start : start + rows] @ a.transpose(1, 2) - b[:, start : start + rows] @ b.transpose(1, 2)
        total += difference.square().sum(dim=(1, 2)).cpu().double()
    return (total / a.shape[1] ** 2).float()


def position_distance(first: Positions, second: Positions) -> PerSample:
    """Return one minus the cosine of two pictures' vectors at the same position, averaged over positions; 0 to 2."""
    return 1 - functional.cosine_similarity(first, second, dim=2).mean(dim=1)
