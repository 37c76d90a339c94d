"""What an adapter does to one weight, and the sum of several adapters.

Every kind keeps the small tensors of its file; the full matrix is computed only on request. The formulas are those of

* LoRA: Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, section 4.1,
* LoHa: Hyeon-Woo et al., *FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning*,
  ICLR 2022, section 2.2,
* LoCon and LoKr: Yeh et al., *Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation*,
  ICLR 2024, section 3,
* DoRA: Liu et al., *DoRA: Weight-Decomposed Low-Rank Adaptation*, ICML 2024, equation 5,

with the scale alpha / rank that trainers write into their files.
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
        """Shape of the weight that is changed: [out, in], [out, in, kh, kw], or [out, in kh kw] from a flat factor."""

    @property
    def rank(self) -> int | None:
        """Rank of the factors, or `None` where no factor has one."""
        return None

    @property
    def scale(self) -> float:
        """Factor of the product of factors: alpha / rank, or 1 where the file gives no alpha."""
        return 1.0

    @property
    def splits_by_rows(self) -> bool:
        """Whether it can be given for some output rows alone."""
        return True

    @abstractmethod
    def difference(self, weight: Tensor) -> Tensor:
        """Return what this change adds to `weight`, shaped like it, in float32 on its device."""

    @abstractmethod
    def multiply(self, strength: float) -> Change:
        """Return `strength` times this change."""

    @abstractmethod
    def select_rows(self, index: Tensor) -> Change:
        """Return the change of some output rows; `index` holds their numbers, [rows]."""

    @abstractmethod
    def reshape(self, shape: tuple[int, ...]) -> Change:
        """Return this change for a weight of a shape that it `is_compatible` with."""

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight of this shape can be changed; a linear layer is the same as a 1x1 convolution."""
        return is_same_shape(self.shape, shape)


class Additive(Change):
    """A change that does not depend on the weight."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the change as one tensor of its `shape`."""

    @abstractmethod
    def reshape(self, shape: tuple[int, ...]) -> Additive:
        """Return this change for a weight of a shape that it `is_compatible` with."""

    def difference(self, weight: Tensor) -> Tensor:
        """Return `dense()`, shaped like `weight` and on its device."""
        return self.dense().reshape(weight.shape).to(weight.device, torch.float32)

    def select_rows(self, index: Tensor) -> Additive:
        """Return the change of some output rows, computed only on request."""
        return RowSelection(self, index)


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
        """Return the change as one tensor of its `shape`."""
        product = self.up.flatten(1) @ self.down.flatten(1)  # [out, rank] @ [rank, in kh kw]
        return self.scale * product.reshape(self.shape)  # [out, in, kh, kw]

    def multiply(self, strength: float) -> Product:
        """Return `strength` times this change."""
        return replace(self, scale=self.scale * strength)

    def fold_scale(self) -> Product:
        """Return this change with its scale multiplied into `up`."""
        return Product(self.down, self.up * self.scale)

    def select_rows(self, index: Tensor) -> Product:
        """Return the change of some output rows."""
        return replace(self, up=self.up[index])

    def reshape(self, shape: tuple[int, ...]) -> Product:
        """Return this change with factors for a weight of this shape."""
        unit_kernel = (1,) * (len(shape) - 2)
        up = self.up.reshape(shape[0], self.rank, *unit_kernel)  # [out, rank, 1, 1]
        return Product(self.down.reshape(self.rank, *shape[1:]), up, self.scale)


@dataclass(frozen=True)
class Hadamard(Additive):
    """The change `scale * first * second` of LoHa, multiplied entry by entry."""

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
        """Return the change as one tensor of its `shape`."""
        return self.scale * self.first.dense() * self.second.dense()

    def multiply(self, strength: float) -> Hadamard:
        """Return `strength` times this change."""
        return replace(self, scale=self.scale * strength)

    def reshape(self, shape: tuple[int, ...]) -> Hadamard:
        """Return this change with factors for a weight of this shape."""
        return Hadamard(self.first.reshape(shape), self.second.reshape(shape), self.scale)


@dataclass(frozen=True)
class Kronecker(Additive):
    """The change `scale * kron(left, right)` of LoKr.

    Attributes:
        left: [out1, in1].
        right: [out2, in2], where in2 includes a convolution's kernel.
        scale: alpha / rank, or 1 where both factors are stored in full.
        rank: rank of the factors, or `None` where both are stored in full.
        shape: [out1 out2, in1 in2], or with in1 in2 split into input channels and kernel.
    """

    left: Tensor
    right: Tensor
    scale: float = 1.0
    rank: int | None = None
    shape: tuple[int, ...] = ()

    def dense(self) -> Tensor:
        """Return the change as one tensor of its `shape`."""
        # [out1, in1] x [out2, in2' kh kw] -> [out1 out2, in1 in2' kh kw]: the kernel stays innermost, so that the
        # reshape to [out, in, kh, kw] gives the product of the unflattened factors
        product = torch.kron(self.left, self.right.contiguous())
        return self.scale * product.reshape(self.shape)

    def multiply(self, strength: float) -> Kronecker:
        """Return `strength` times this change."""
        return replace(self, scale=self.scale * strength)

    def reshape(self, shape: tuple[int, ...]) -> Kronecker:
        """Return this change for a weight of this shape."""
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class Full(Additive):
    """The change `scale * whole` of a file that holds the difference itself.

    Attributes:
        whole: shaped like the weight, or like a bias: [out].
        scale: factor of the difference.
    """

    whole: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return tuple(self.whole.shape)

    def dense(self) -> Tensor:
        """Return the change as one tensor of its `shape`."""
        return self.scale * self.whole

    def multiply(self, strength: float) -> Full:
        """Return `strength` times this change."""
        return replace(self, scale=self.scale * strength)

    def select_rows(self, index: Tensor) -> Full:
        """Return the change of some output rows."""
        return replace(self, whole=self.whole[index])

    def reshape(self, shape: tuple[int, ...]) -> Full:
        """Return this change for a weight of this shape."""
        return replace(self, whole=self.whole.reshape(shape))


@dataclass(frozen=True)
class RowSelection(Additive):
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
        """Return these rows as one tensor of its `shape`."""
        return self.whole.dense()[self.index]

    def multiply(self, strength: float) -> RowSelection:
        """Return `strength` times this change."""
        whole = self.whole.multiply(strength)
        assert isinstance(whole, Additive)
        return replace(self, whole=whole)

    def reshape(self, shape: tuple[int, ...]) -> RowSelection:
        """Return this change for a weight of this shape."""
        return replace(self, whole=self.whole.reshape((self.whole.shape[0], *shape[1:])))


@dataclass(frozen=True)
class WeightDecomposition(Change):
    """The change of DoRA: the weight's norms become `magnitude`, its directions those of the weight plus `inner`.

    Attributes:
        inner: the change of direction, of any kind that does not depend on the weight.
        magnitude: [out, 1, ...] for norms of output rows, [1, in, ...] for norms of input columns.
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
    def is_per_row(self) -> bool:
        """Whether magnitudes are those of output rows."""
        first, *others = self.magnitude.shape
        return first == self.shape[0] and math.prod(others) == 1

    @property
    def splits_by_rows(self) -> bool:
        """Whether magnitudes are those of output rows; those of columns need all rows."""
        return self.is_per_row

    def difference(self, weight: Tensor) -> Tensor:
        """Return strength (W' - W) with W' = magnitude (W + inner) / |W + inner|, W being `weight`.

        A row or column of zeros has no direction and stays zero.
        """
        before = weight.to(torch.float32)
        directed = before + self.inner.difference(weight)
        axes = [axis for axis in range(directed.ndim) if axis != (0 if self.is_per_row else 1)]
        norm = torch.linalg.vector_norm(directed, dim=axes, keepdim=True)  # [out, 1, ...] or [1, in, ...]
        magnitude = self.magnitude.to(weight.device)
        after: Tensor = directed * (magnitude / norm.clamp_min(torch.finfo(norm.dtype).tiny))
        return self.strength * (after - before)

    def multiply(self, strength: float) -> WeightDecomposition:
        """Return `strength` times this difference."""
        return replace(self, strength=self.strength * strength)

    def select_rows(self, index: Tensor) -> WeightDecomposition:
        """Return the change of some output rows; with magnitudes of columns, `index` must name all rows."""
        magnitude = self.magnitude[index] if self.is_per_row else self.magnitude
        return replace(self, inner=self.inner.select_rows(index), magnitude=magnitude)

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a weight of this shape can be changed and has as many rows or columns as magnitudes."""
        return super().is_compatible(shape) and self.magnitude.numel() == shape[0 if self.is_per_row else 1]

    def reshape(self, shape: tuple[int, ...]) -> WeightDecomposition:
        """Return this change for a weight of this shape."""
        sides = [1] * len(shape)
        sides[0 if self.is_per_row else 1] = -1
        return replace(self, inner=self.inner.reshape(shape), magnitude=self.magnitude.reshape(sides))


@dataclass(frozen=True)
class Sum(Change):
    """Several changes of one weight, each computed for the weight as it was before all of them."""

    parts: tuple[Change, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed."""
        return self.parts[0].shape

    @property
    def rank(self) -> int | None:
        """Rank of the first part that has one."""
        return next((part.rank for part in self.parts if part.rank is not None), None)

    @property
    def scale(self) -> float:
        """Scale of the first part that has a rank."""
        return next((part.scale for part in self.parts if part.rank is not None), 1.0)

    @property
    def splits_by_rows(self) -> bool:
        """Whether all parts can be given for some output rows alone."""
        return all(part.splits_by_rows for part in self.parts)

    def is_compatible(self, shape: tuple[int, ...]) -> bool:
        """Tell whether all parts fit a weight of this shape."""
        return all(part.is_compatible(shape) for part in self.parts)

    def difference(self, weight: Tensor) -> Tensor:
        """Return the sum of the parts' differences."""
        return torch.stack([part.difference(weight) for part in self.parts]).sum(dim=0)

    def multiply(self, strength: float) -> Sum:
        """Return `strength` times this change."""
        return Sum(tuple(part.multiply(strength) for part in self.parts))

    def select_rows(self, index: Tensor) -> Sum:
        """Return the change of some output rows."""
        return Sum(tuple(part.select_rows(index) for part in self.parts))

    def reshape(self, shape: tuple[int, ...]) -> Sum:
        """Return this change for a weight of this shape."""
        return Sum(tuple(part.reshape(shape) for part in self.parts))


def stack(parts: Sequence[tuple[Mapping[str, Change], float]]) -> dict[str, Change]:
    """Add several bound adapters, each with its strength.

    Low-rank changes of one module are concatenated along the rank: the sum of ranks r1 and r2 is one product of rank
    r1 + r2, with strengths and scales multiplied into `up`. Other kinds are kept as a `Sum`.

    Args:
        parts: pairs of changes by module, as `bind` returns them, and a strength.
    """
    changes_of: dict[str, list[Change]] = {}
    for changes, strength in parts:
        for module, change in changes.items():
            changes_of.setdefault(module, []).append(change.multiply(strength))
    return {module: _add(changes) for module, changes in changes_of.items()}


def split_low_rank(change: Change) -> tuple[Product | None, Change | None]:
    """Split a change into its low-rank part and the rest; `None` stands for a part that it lacks."""
    parts = change.parts if isinstance(change, Sum) else (change,)
    products = [part for part in parts if isinstance(part, Product)]
    rest = [part for part in parts if not isinstance(part, Product)]
    return concatenate(products) if products else None, _add(rest) if rest else None


def concatenate(products: Sequence[Product]) -> Product:
    """Return the sum of products of one shape as one product, concatenated along the rank, with scale 1."""
    products = [product.fold_scale() for product in products]
    down = torch.cat([product.down for product in products], dim=0)  # [r1 + r2 + ..., in, ...]
    up = torch.cat([product.up for product in products], dim=1)  # [out, r1 + r2 + ..., ...]
    return Product(down, up)


def expand_tucker(down: Tensor, core: Tensor, up: Tensor) -> Product:
    """Return a convolution's change from its Tucker form, up[o,i] core[i,j,kh,kw] down[j,n], as a product.

    Args:
        down: [rank2, in].
        core: [rank1, rank2, kh, kw].
        up: [out, rank1].
    """
    kernels = torch.einsum("ijkl,jn->inkl", core, down)  # [rank1, in, kh, kw]
    return Product(kernels, up[..., None, None])


def _add(changes: Sequence[Change]) -> Change:
    """Return the sum of changes of one module, its low-rank parts as one product."""
    products = [change for change in changes if isinstance(change, Product)]
    rest = [change for change in changes if not isinstance(change, Product)]
    parts: list[Change] = [concatenate(products), *rest] if products else list(rest)
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def is_same_shape(changed: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Tell whether a change of one shape fits a weight of another: the same but for a 1x1 or a flattened kernel."""
    flat = (weight[0], math.prod(weight[1:])) if len(weight) > 1 else weight
    return _drop_unit_kernel(changed) == _drop_unit_kernel(weight) or changed == flat


def _drop_unit_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the last two axes of a 1x1 convolution."""
    return tuple(shape[:2]) if math.prod(shape[2:]) == 1 else tuple(shape)
