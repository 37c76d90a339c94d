"""Builds the change of one module from its tensors, whichever kind of adapter they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from stylescore.lora.deltas import Additive, Change, Hadamard, Kronecker, Product, WeightDecomposition, expand_tucker

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]
_MOST_NUMBERS = 2**28
"""Most numbers of one matrix; the largest weight of the supported models has half as many."""
_SHARED_ROLES = frozenset({"alpha", "dora_scale", "magnitude"})
_LORA_ROLES = frozenset({"down", "up", "mid"})


class IncompleteError(ValueError):
    """A tensor that the others need is not in the file; the message is its role."""


class ShapeError(ValueError):
    """Tensors of one module that do not fit together."""


@dataclass(frozen=True)
class Scaling:
    """How one module's change is scaled.

    Attributes:
        of_rank: returns the factor for a rank: alpha / rank, or what the adapter's settings say instead.
        without_rank: the factor where no tensor has a rank.
    """

    of_rank: Callable[[int], float]
    without_rank: float = 1.0


def kind_of(shapes: Shapes) -> str:
    """Return the kind of adapter that one module's tensors make up, from their roles and shapes."""
    prefixes = (("LoHa", "hada_"), ("LoKr", "lokr_"))
    kinds = [kind for kind, prefix in prefixes if any(role.startswith(prefix) for role in shapes)]
    if not _LORA_ROLES.isdisjoint(shapes):
        kernel = math.prod(shapes.get("mid", shapes.get("down", ()))[2:])
        kinds.append("LoCon" if kernel > 1 else "LoRA")
    inner = " and ".join(kinds) or "LoRA"
    return f"DoRA on {inner}" if {"dora_scale", "magnitude"} & set(shapes) else inner


def summarize_kinds(kinds: Iterable[str]) -> str:
    """Summarize the kinds of all modules in one name; LoCon includes LoRA."""
    found = set(kinds)
    for start in ("", "DoRA on "):
        if f"{start}LoCon" in found:
            found.discard(f"{start}LoRA")
    return " and ".join(sorted(found))


def build_change(tensors: Tensors, scaling: Scaling) -> Change:
    """Build the change of one module.

    Args:
        tensors: float32 tensors by role.
        scaling: how the change is scaled.

    Raises:
        IncompleteError: a tensor is missing.
        ShapeError: shapes do not fit together.
    """
    inner = _build_inner(tensors, scaling)
    magnitude = _read_magnitude(tensors, inner)
    return inner if magnitude is None else WeightDecomposition(inner, magnitude)


def _build_inner(tensors: Tensors, scaling: Scaling) -> Additive:
    families = {"lora" if role in _LORA_ROLES else role.split("_")[0] for role in tensors if role not in _SHARED_ROLES}
    if len(families) > 1:
        raise ShapeError("of more than one kind of adapter")
    if families == {"hada"}:
        return _build_loha(tensors, scaling)
    return _build_lokr(tensors, scaling) if families == {"lokr"} else _build_lora(tensors, scaling)


def _build_lora(tensors: Tensors, scaling: Scaling) -> Product:
    """LoRA and LoCon: up down; with a Tucker core, up mid down as three convolutions in a row."""
    down, up = _require_pair(tensors, "down", "up")
    _require(up.ndim >= 2 and math.prod(up.shape[2:]) == 1)
    product = _build_product(down, up.flatten(1), tensors.get("mid"))
    return product.multiply(scaling.of_rank(product.rank))


def _build_loha(tensors: Tensors, scaling: Scaling) -> Hadamard:
    """LoHa: (w1_a w1_b) times (w2_a w2_b) entry by entry, both with a Tucker core or neither."""
    if ("hada_t1" in tensors) != ("hada_t2" in tensors):
        raise IncompleteError("hada_t1" if "hada_t2" in tensors else "hada_t2")
    first, second = (_build_lycoris_product(tensors, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
    _require(first.shape == second.shape)
    return Hadamard(first, second, scaling.of_rank(first.rank))


def _build_lokr(tensors: Tensors, scaling: Scaling) -> Kronecker:
    """LoKr: the Kronecker product of two factors; the rank of its scale is the second factor's, else the first's."""
    left, rank = _build_factor(tensors, "lokr_w1", None)
    right, rank_right = _build_factor(tensors, "lokr_w2", "lokr_t2")
    rank = rank_right or rank
    _require(left.ndim == 2)
    shape = (left.shape[0] * right.shape[0], left.shape[1] * right.shape[1], *right.shape[2:])
    scale = scaling.of_rank(rank) if rank else scaling.without_rank
    return Kronecker(left, right.flatten(1), scale, rank, shape)  # right: [out2, in2 kh kw]


def _build_factor(tensors: Tensors, name: str, core: str | None) -> tuple[Tensor, int | None]:
    """Return a Kronecker factor and its rank, `None` if it is stored in full."""
    if name in tensors:
        _require(tensors.keys().isdisjoint({f"{name}_a", f"{name}_b", core}))
        full = tensors[name]
        _require(full.ndim in (2, 4) and 0 not in full.shape)
        return full, None
    if tensors.keys().isdisjoint({f"{name}_a", f"{name}_b"}):
        raise IncompleteError(name)
    product = _build_lycoris_product(tensors, name, core)
    _require_possible(product.shape)
    return product.dense(), product.rank


def _build_lycoris_product(tensors: Tensors, name: str, core: str | None) -> Product:
    """Return LyCORIS's product a b; with a Tucker core, a is stored transposed."""
    a, b = _require_pair(tensors, f"{name}_a", f"{name}_b")
    core_tensor = tensors.get(core) if core else None
    _require(a.ndim == b.ndim == 2)
    return _build_product(b, a if core_tensor is None else a.T, core_tensor)


def _build_product(down: Tensor, up: Tensor, core: Tensor | None) -> Product:
    """Return up down or up core down, with `up` as [out, rank]."""
    _require(down.ndim in (2, 4) and up.ndim == 2 and 0 not in (*down.shape, *up.shape))
    if core is None:
        _require(up.shape[1] == down.shape[0])
        return Product(down, up.reshape(*up.shape, *(1,) * (down.ndim - 2)))  # up: [out, rank, 1, 1]
    _require(core.ndim == 4 and math.prod(down.shape[2:]) == 1 and 0 not in core.shape)
    _require(core.shape[:2] == (up.shape[1], down.shape[0]))
    _require_possible((core.shape[0], down.shape[1], *core.shape[2:]))
    return expand_tucker(down.flatten(1), core, up)


def _read_magnitude(tensors: Tensors, inner: Additive) -> Tensor | None:
    """Return DoRA's magnitudes as [out, 1] or [1, in]; `None` if there are none.

    PEFT's are always those of output rows, whatever their shape. In other programs' files the shape shows the axis.
    """
    if "magnitude" in tensors:
        magnitude, is_per_row = tensors["magnitude"], True
    elif "dora_scale" in tensors:
        magnitude = tensors["dora_scale"]
        is_column = magnitude.shape[:1] == (inner.shape[0],) and math.prod(magnitude.shape[1:]) == 1
        is_per_row = magnitude.ndim < 2 or is_column
        _require(is_per_row or magnitude.shape[:2] == (1, magnitude.numel()))
    else:
        return None
    _require(not is_per_row or magnitude.numel() == inner.shape[0])
    return magnitude.reshape(-1, 1) if is_per_row else magnitude.reshape(1, -1)


def _require_pair(tensors: Tensors, *roles: str) -> tuple[Tensor, Tensor]:
    for role in roles:
        if role not in tensors:
            raise IncompleteError(role)
    first, second = (tensors[role] for role in roles)
    return first, second


def _require(fits: bool) -> None:
    if not fits:
        raise ShapeError("that do not fit together")


def _require_possible(shape: tuple[int, ...]) -> None:
    """Raise `ShapeError` for a matrix that small factors make larger than any weight."""
    if math.prod(shape) > _MOST_NUMBERS:
        raise ShapeError(f"that would make {math.prod(shape):,} numbers, more than any layer has")
