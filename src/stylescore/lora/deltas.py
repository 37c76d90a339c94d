"""What an adapter does to one weight, and the sum of several.

All kinds keep the small tensors of their file; the full matrix is made only when it is asked for. The formulas
are those of the papers on LoRA, LoHa (FedPara), LoKr (LyCORIS) and DoRA, in the scaling that trainers' files use.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


class Change(ABC):
    """The change of one linear or convolution weight."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed: [out, in] or [out, in, kh, kw]; [out, in kh kw] where not told."""

    @property
    def rank(self) -> int | None:
        """Rank of the factors, or `None` where nothing has one."""
        return None

    @property
    def scale(self) -> float:
        """Factor of the product of factors: alpha / rank, or 1 where the file gives no alpha."""
        return 1.0

    @abstractmethod
    def difference(self, weight: Tensor) -> Tensor:
        """Return what this change adds to `weight`, shaped like it, in float32 on its device."""

    @abstractmethod
    def scaled(self, strength: float) -> Change:
        """Return `strength` times the same change."""

    @abstractmethod
    def rows(self, index: Tensor) -> Change:
        """Return the change of some output rows alone; `index` holds their numbers, [rows]."""

    @abstractmethod
    def fitted(self, shape: tuple[int, ...]) -> Change:
        """Return the same change for a weight of a shape that it `matches`."""

    def matches(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight of this shape can be meant; a linear layer and a 1x1 convolution are one."""
        return _bare(self.shape) == _bare(shape) or self.shape == (shape[0], math.prod(shape[1:]))


class Additive(Change):
    """A change that is the same whatever the weight is."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the change as one tensor of its `shape`."""

    @abstractmethod
    def fitted(self, shape: tuple[int, ...]) -> Additive:
        """Return the same change for a weight of a shape that it `matches`."""

    def difference(self, weight: Tensor) -> Tensor:
        """Return `dense()`, shaped and placed like `weight`."""
        return self.dense().reshape(weight.shape).to(weight.device, torch.float32)

    def rows(self, index: Tensor) -> Additive:
        """Return the change of some output rows alone, made only when asked for."""
        return Picked(self, index)


@dataclass(frozen=True)
class Product(Additive):
    """The change `scale * up @ down` of LoRA and LoCon.

    Attributes:
        down: [rank, in] for a linear layer, [rank, in, kh, kw] for a convolution.
        up: [out, rank] for a linear layer, [out, rank, 1, 1] for a convolution.
        scale: alpha / rank, or 1 where the file gives no alpha.
    """

    down: Tensor
    up: Tensor
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Number of rows of `down`."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return (self.up.shape[0], *self.down.shape[1:])

    def dense(self) -> Tensor:
        """Return the change as one tensor, shaped like the weight it is added to."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return self.scale * product.reshape(self.shape)

    def scaled(self, strength: float) -> Product:
        """Return `strength` times the same change."""
        return replace(self, scale=self.scale * strength)

    def folded(self) -> Product:
        """Return the same change with its scale inside `up`."""
        return Product(self.down, self.up * self.scale)

    def rows(self, index: Tensor) -> Product:
        """Return the change of some output rows alone."""
        return replace(self, up=self.up[index])

    def fitted(self, shape: tuple[int, ...]) -> Product:
        """Return the same change with factors for a weight of this shape."""
        spatial = (1,) * (len(shape) - 2)
        up = self.up.reshape(shape[0], self.rank, *spatial)
        return Product(self.down.reshape(self.rank, *shape[1:]), up, self.scale)


@dataclass(frozen=True)
class Hadamard(Additive):
    """The change `scale * first * second`, entry by entry, of LoHa."""

    first: Product
    second: Product
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """Rank of the first product."""
        return self.first.rank

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of both products."""
        return self.first.shape

    def dense(self) -> Tensor:
        """Return the change as one tensor."""
        return self.scale * self.first.dense() * self.second.dense()

    def scaled(self, strength: float) -> Hadamard:
        """Return `strength` times the same change."""
        return replace(self, scale=self.scale * strength)

    def fitted(self, shape: tuple[int, ...]) -> Hadamard:
        """Return the same change with factors for a weight of this shape."""
        return Hadamard(self.first.fitted(shape), self.second.fitted(shape), self.scale)


@dataclass(frozen=True)
class Kronecker(Additive):
    """The change `scale * kron(left, right)` of LoKr.

    Attributes:
        left: [out1, in1].
        right: [out2, in2], where in2 counts a convolution's taps.
        scale: alpha / rank, or 1 where both factors are stored in full.
        rank: rank of the factors, or `None` where both are stored in full.
        shape: out1 out2, then in1 in2 or what it is divided into.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0
    rank: int | None = None
    shape: tuple[int, ...] = ()

    def dense(self) -> Tensor:
        """Return the change as one tensor; input channels count before taps, so flat factors will do."""
        return self.scale * torch.kron(self.left, self.right.contiguous()).reshape(self.shape)

    def scaled(self, strength: float) -> Kronecker:
        """Return `strength` times the same change."""
        return replace(self, scale=self.scale * strength)

    def fitted(self, shape: tuple[int, ...]) -> Kronecker:
        """Return the same change for a weight of this shape."""
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class Picked(Additive):
    """Some output rows of another change; `index` holds their numbers, [rows]."""

    whole: Additive
    index: Tensor

    @property
    def rank(self) -> int | None:
        """Rank of the whole change."""
        return self.whole.rank

    @property
    def scale(self) -> float:
        """Scale of the whole change."""
        return self.whole.scale

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return (len(self.index), *self.whole.shape[1:])

    def dense(self) -> Tensor:
        """Return these rows as one tensor."""
        return self.whole.dense()[self.index]

    def scaled(self, strength: float) -> Picked:
        """Return `strength` times the same change."""
        scaled = self.whole.scaled(strength)
        assert isinstance(scaled, Additive)
        return replace(self, whole=scaled)

    def fitted(self, shape: tuple[int, ...]) -> Picked:
        """Return the same change for a weight of this shape."""
        return replace(self, whole=self.whole.fitted((self.whole.shape[0], *shape[1:])))


@dataclass(frozen=True)
class Decomposed(Change):
    """The change of DoRA: the weight's lengths become `magnitude`, its directions those of weight plus `inner`.

    Attributes:
        inner: the change of direction, of any kind that does not depend on the weight.
        magnitude: [out, 1, ...] for lengths of output rows, [1, in, ...] for lengths of input columns.
        strength: factor of the whole difference.
    """

    inner: Additive
    magnitude: Tensor
    strength: float = 1.0

    @property
    def rank(self) -> int | None:
        """Rank of the change of direction."""
        return self.inner.rank

    @property
    def scale(self) -> float:
        """Scale of the change of direction."""
        return self.inner.scale

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return self.inner.shape

    @property
    def by_rows(self) -> bool:
        """Whether lengths are those of output rows."""
        first, *others = self.magnitude.shape
        return first == self.shape[0] and math.prod(others) == 1

    def difference(self, weight: Tensor) -> Tensor:
        """Return strength (W' - W) with W' = magnitude (W + inner) / |W + inner|, W being `weight`.

        A row or column of zeros has no direction and stays zero.
        """
        before = weight.to(torch.float32)
        turned = before + self.inner.difference(weight)
        axes = [axis for axis in range(turned.ndim) if axis != (0 if self.by_rows else 1)]
        length = torch.linalg.vector_norm(turned, dim=axes, keepdim=True)
        magnitude = self.magnitude.to(weight.device)
        stretched: Tensor = turned * (magnitude / length.clamp_min(torch.finfo(length.dtype).tiny))
        return self.strength * (stretched - before)

    def scaled(self, strength: float) -> Decomposed:
        """Return `strength` times the same difference."""
        return replace(self, strength=self.strength * strength)

    def rows(self, index: Tensor) -> Decomposed:
        """Return the change of some output rows alone; for lengths of columns, `index` must name all rows."""
        return replace(
            self, inner=self.inner.rows(index), magnitude=self.magnitude[index] if self.by_rows else self.magnitude
        )

    def matches(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight of this shape can be meant, lengths included."""
        return super().matches(shape) and self.magnitude.numel() == shape[0 if self.by_rows else 1]

    def fitted(self, shape: tuple[int, ...]) -> Decomposed:
        """Return the same change for a weight of this shape."""
        sides = [1] * len(shape)
        sides[0 if self.by_rows else 1] = -1
        return replace(self, inner=self.inner.fitted(shape), magnitude=self.magnitude.reshape(sides))


@dataclass(frozen=True)
class Sum(Change):
    """Several changes of the same weight, each made for the weight as it was before all of them."""

    parts: tuple[Change, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return self.parts[0].shape

    def difference(self, weight: Tensor) -> Tensor:
        """Return the sum of the parts' differences."""
        return torch.stack([part.difference(weight) for part in self.parts]).sum(dim=0)

    def scaled(self, strength: float) -> Sum:
        """Return `strength` times the same change."""
        return Sum(tuple(part.scaled(strength) for part in self.parts))

    def rows(self, index: Tensor) -> Sum:
        """Return the change of some output rows alone."""
        return Sum(tuple(part.rows(index) for part in self.parts))

    def fitted(self, shape: tuple[int, ...]) -> Sum:
        """Return the same change for a weight of this shape."""
        return Sum(tuple(part.fitted(shape) for part in self.parts))


def stack(parts: Sequence[tuple[Mapping[str, Change], float]]) -> dict[str, Change]:
    """Add several bound adapters, each with its strength.

    Low-rank changes of the same module are laid side by side along the rank, so the sum of ranks r1 and r2 is one
    product of rank r1 + r2, with strengths and scales inside `up`. Other kinds stay apart in a `Sum`.

    Args:
        parts: pairs of what `bind` returned and a strength.
    """
    gathered: dict[str, list[Change]] = {}
    for changes, strength in parts:
        for module, change in changes.items():
            gathered.setdefault(module, []).append(change.scaled(strength))
    return {module: _total(changes) for module, changes in gathered.items()}


def split(change: Change) -> tuple[Product | None, Change | None]:
    """Return the low-rank part of a change and the rest, `None` for what it lacks."""
    parts = change.parts if isinstance(change, Sum) else (change,)
    products = [part for part in parts if isinstance(part, Product)]
    rest = [part for part in parts if not isinstance(part, Product)]
    return side_by_side(products) if products else None, _total(rest) if rest else None


def side_by_side(products: Sequence[Product]) -> Product:
    """Return the sum of products of one shape as one product of all their ranks, scale 1."""
    folded = [product.folded() for product in products]
    down = torch.cat([product.down for product in folded], dim=0)
    return Product(down, torch.cat([product.up for product in folded], dim=1))


def tucker(down: Tensor, core: Tensor, up: Tensor) -> Product:
    """Return a convolution's change from its Tucker form, up[o,i] core[i,j,kh,kw] down[j,n], as a product.

    Args:
        down: [rank2, in].
        core: [rank1, rank2, kh, kw].
        up: [out, rank1].
    """
    return Product(torch.einsum("ijkl,jn->inkl", core, down), up[..., None, None])


def _total(changes: Sequence[Change]) -> Change:
    """Return the sum of changes of one module, its low-rank parts as one product."""
    products = [change for change in changes if isinstance(change, Product)]
    rest = [change for change in changes if not isinstance(change, Product)]
    parts: list[Change] = [side_by_side(products), *rest] if products else list(rest)
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the sides of a 1x1 convolution."""
    return tuple(shape[:2]) if math.prod(shape[2:]) == 1 else tuple(shape)
