"""Changes that depend on the weight they find: rescaled, rotated, multiplied, replaced.

A file's change turns a weight W into W'; at strength s it gives W + s (W' - W), whatever the kind. The formulas are
those of

* IA3: Liu et al., *Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning*,
  NeurIPS 2022, section 3.3,
* OFT: Qiu et al., *Controlling Text-to-Image Diffusion by Orthogonal Finetuning*, NeurIPS 2023, section 3,
* BOFT: Liu et al., *Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization*, ICLR 2024, section 4,
* GLoRA: Chavan et al., *One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning*, 2023, section 3.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from stylescore.lora.deltas import Change, Product, is_same_shape

Side = Literal["rows", "columns"]
"""Output rows or input columns of a weight."""


class Transformation(Change):
    """A change that is given by the weight that it leads to."""

    strength: float

    @abstractmethod
    def transform(self, weight: Tensor) -> Tensor:
        """Return W' for a weight W, shaped like it; both are float32."""

    def difference(self, weight: Tensor) -> Tensor:
        """Return strength (W' - W), W being `weight`."""
        before = weight.to(torch.float32)
        return self.strength * (self.transform(before) - before)

    def multiply(self, strength: float) -> Transformation:
        """Return `strength` times this change."""
        return replace(self, strength=self.strength * strength)  # type: ignore[type-var]

    def reshape(self, shape: tuple[int, ...]) -> Transformation:
        """Return this change: it takes the shape of the weight that it finds."""
        del shape
        return self


@dataclass(frozen=True)
class Rescaling(Transformation):
    """The change of IA3: every output row, or every input column, is multiplied by a factor of its own.

    Attributes:
        factors: [rows] or [columns].
        side: what they multiply.
        strength: factor of the whole difference.
    """

    factors: Tensor
    side: Side
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows or columns are multiplied."""
        return tuple(self.factors.shape)

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight or bias has as many rows or columns."""
        axis = _axis(self.side)
        return shape[axis : axis + 1] == self.shape

    def transform(self, weight: Tensor) -> Tensor:
        """Return the weight with its rows or columns multiplied."""
        return weight * _along(self.factors.to(weight.device), _axis(self.side), weight.ndim)

    def select_rows(self, index: Tensor) -> Rescaling:
        """Return the change of some output rows."""
        return replace(self, factors=self.factors[index]) if self.side == "rows" else self


@dataclass(frozen=True)
class Stage:
    """One block-diagonal matrix of a rotation, in an order of its own.

    Attributes:
        blocks: [blocks, size, size].
        order: the rotated entries in the order in which the blocks take them, [entries]; `None` for their own.
    """

    blocks: Tensor
    order: Tensor | None = None

    def __call__(self, entries: Tensor) -> Tensor:
        """Return the product of the matrix and `entries`, [entries, others]; a single block serves all groups."""
        ordered = entries if self.order is None else entries[self.order]
        size = self.blocks.shape[-1]
        grouped = ordered.reshape(-1, size, *ordered.shape[1:])
        blocks = self.blocks.to(entries.device).expand(len(grouped), size, size)
        product = torch.bmm(blocks, grouped).reshape(entries.shape)
        if self.order is None:
            return product
        placed = torch.empty_like(product)
        placed[self.order] = product
        return placed


@dataclass(frozen=True)
class Rotation(Transformation):
    """The change of OFT and BOFT: rows or columns are rotated in blocks, stage after stage, then rows rescaled.

    Attributes:
        stages: applied one after another; OFT has one.
        side: what is rotated: the output rows, or all numbers that make up one row.
        rescale: factor of every output row after the rotation, [rows]; `None` for 1.
        is_shared: whether the only block rotates every group of as many rows or columns.
        strength: factor of the whole difference.
    """

    stages: tuple[Stage, ...]
    side: Side
    rescale: Tensor | None = None
    is_shared: bool = False
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """How many rows or columns are rotated; of a shared block, its size."""
        return (math.prod(self.stages[0].blocks.shape[:2]),)

    @property
    def splits_by_rows(self) -> bool:
        """Whether no row depends on another."""
        return self.side == "columns"

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight has as many rows or columns, a convolution's kernel counted as columns."""
        rotated = shape[0] if self.side == "rows" else math.prod(shape[1:])
        fits = rotated % self.shape[0] == 0 if self.is_shared else self.shape[0] == rotated
        return fits and (self.rescale is None or len(self.rescale) == shape[0])

    def transform(self, weight: Tensor) -> Tensor:
        """Return the rotated and rescaled weight."""
        entries = weight.flatten(1)
        entries = entries if self.side == "rows" else entries.T
        for stage in self.stages:
            entries = stage(entries)
        turned = (entries if self.side == "rows" else entries.T).reshape(weight.shape)
        return turned if self.rescale is None else turned * _along(self.rescale.to(weight.device), 0, weight.ndim)

    def select_rows(self, index: Tensor) -> Rotation:
        """Return the change of some output rows."""
        return replace(self, rescale=None if self.rescale is None else self.rescale[index])


@dataclass(frozen=True)
class WeightedProduct(Transformation):
    """The change of GLoRA, W right + added: low-rank products, one of which the weight is multiplied with.

    Attributes:
        right: [in, in] as a product.
        added: [out, in] or [out, in, kh, kw] as a product.
        strength: factor of the whole difference; the scale alpha / rank is that of `added` and `right`.
    """

    right: Product
    added: Product
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return self.added.shape

    @property
    def rank(self) -> int:
        """Rank of both products."""
        return self.added.rank

    @property
    def scale(self) -> float:
        """Scale of both products."""
        return self.added.scale

    def transform(self, weight: Tensor) -> Tensor:
        """Return W + W right + added."""
        moved = torch.einsum("oi...,ij->oj...", weight, self.right.dense().to(weight.device))
        return weight + moved + self.added.difference(weight)

    def select_rows(self, index: Tensor) -> WeightedProduct:
        """Return the change of some output rows."""
        return replace(self, added=self.added.select_rows(index))

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether both products fit a weight of this shape."""
        return self.added.is_compatible(shape) and self.right.shape == (shape[1], shape[1])


@dataclass(frozen=True)
class Replacement(Transformation):
    """A weight or bias that the file holds as a whole.

    Attributes:
        whole: the new weight.
        strength: factor of the whole difference.
    """

    whole: Tensor
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is replaced."""
        return tuple(self.whole.shape)

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight has the shape of the new one."""
        return is_same_shape(self.shape, shape)

    def transform(self, weight: Tensor) -> Tensor:
        """Return the new weight."""
        return self.whole.to(weight.device).reshape(weight.shape)

    def select_rows(self, index: Tensor) -> Replacement:
        """Return the change of some output rows."""
        return replace(self, whole=self.whole[index])


def cayley(skew: Tensor, terms: int | None = None) -> Tensor:
    """Return the orthogonal matrices (I + Q) (I - Q)^-1 of skew-symmetric ones, [..., size, size].

    Args:
        skew: the matrices Q.
        terms: `None` inverts exactly; a number takes so many terms of the series I + 2 Q + 2 Q^2 + ..., as PEFT does:
            from three terms on it takes at least four, and the last one once only.
    """
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype).expand_as(skew)
    if terms is None:
        exact: Tensor = torch.linalg.solve(identity - skew, identity + skew, left=False)
        return exact
    factors = [2.0] * (max(terms, 4) - 2) + [1.0] if terms > 2 else [2.0] * (terms - 1)
    result = identity.clone()
    for power, factor in enumerate(factors, start=1):
        result += factor * torch.linalg.matrix_power(skew, power)
    return result


def skew_from_triangle(entries: Tensor) -> Tensor:
    """Return skew-symmetric matrices from what stands above their diagonals, [..., size (size - 1) / 2].

    Raises:
        ValueError: no matrix has so many entries there.
    """
    size = (1 + math.isqrt(1 + 8 * entries.shape[-1])) // 2
    if size * (size - 1) // 2 != entries.shape[-1]:
        raise ValueError(f"{entries.shape[-1]} numbers fill no triangle")
    upper = entries.new_zeros(*entries.shape[:-1], size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    upper[..., rows, columns] = entries
    return upper - upper.mT


def interleave(size: int, step: int) -> Tensor:
    """Return the order of LyCORIS's butterfly: entries that are `step` apart become neighbours, [size]."""
    return torch.arange(size).reshape(-1, 2, step).transpose(1, 2).flatten()


def butterfly(size: int, block: int, stage: int) -> Tensor:
    """Return the order of PEFT's butterfly: in groups of block * 2^stage, even half blocks before odd ones, [size]."""
    groups = torch.arange(size).reshape(-1, 2**stage, 2, block // 2)
    even_first = groups.transpose(1, 2).flatten()
    return torch.argsort(even_first)


def _axis(side: Side) -> int:
    return 0 if side == "rows" else 1


def _along(factors: Tensor, axis: int, dimensions: int) -> Tensor:
    """Return factors, [n], shaped so that they multiply one axis of a tensor."""
    sides: Sequence[int] = [-1 if number == axis else 1 for number in range(dimensions)]
    return factors.reshape(sides)
