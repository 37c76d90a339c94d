"""Makes a change from one module's tensors, whichever kind of adapter they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from stylescore.lora.deltas import Additive, Change, Decomposed, Hadamard, Kronecker, Product, tucker

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]
COMMON = frozenset({"alpha", "dora_scale", "magnitude"})
PLAIN = frozenset({"down", "up", "mid"})


class IncompleteError(ValueError):
    """Tensors that need a partner the file lacks."""


class MisshapenError(ValueError):
    """Tensors whose shapes do not fit together."""


@dataclass(frozen=True)
class Scaling:
    """How large a module's change is meant to be.

    Attributes:
        of_rank: gives the factor for a rank, alpha / rank or what the settings say instead.
        whole: the factor where no factor has a rank.
    """

    of_rank: Callable[[int], float]
    whole: float = 1.0


def kind_of(shapes: Shapes) -> str:
    """Name the kind of adapter that one module's tensors are, from their roles and shapes."""
    kinds = [
        kind for kind, mark in (("LoHa", "hada_"), ("LoKr", "lokr_")) if any(role.startswith(mark) for role in shapes)
    ]
    if not PLAIN.isdisjoint(shapes):
        taps = math.prod(shapes.get("mid", shapes.get("down", ()))[2:])
        kinds.append("LoCon" if taps > 1 else "LoRA")
    inner = " and ".join(kinds) or "LoRA"
    return f"DoRA on {inner}" if {"dora_scale", "magnitude"} & set(shapes) else inner


def name_kinds(kinds: Iterable[str]) -> str:
    """Put the kinds of all modules into one name; LoCon is LoRA that reaches convolutions too."""
    found = set(kinds)
    for start in ("", "DoRA on "):
        if f"{start}LoCon" in found:
            found.discard(f"{start}LoRA")
    return " and ".join(sorted(found))


def build(tensors: Tensors, scaling: Scaling) -> Change:
    """Make the change of one module.

    Args:
        tensors: float32 tensors by role.
        scaling: how large it is meant to be.

    Raises:
        IncompleteError: when a partner is missing.
        MisshapenError: when shapes do not fit together.
    """
    inner = _inner(tensors, scaling)
    lengths = _magnitude(tensors, inner)
    return inner if lengths is None else Decomposed(inner, lengths)


def _inner(tensors: Tensors, scaling: Scaling) -> Additive:
    marks = {role.split("_")[0] if role not in PLAIN else "plain" for role in tensors if role not in COMMON}
    if len(marks) > 1:
        raise MisshapenError("of more than one kind of adapter")
    if marks == {"hada"}:
        return _loha(tensors, scaling)
    return _lokr(tensors, scaling) if marks == {"lokr"} else _lora(tensors, scaling)


def _lora(tensors: Tensors, scaling: Scaling) -> Product:
    """LoRA and LoCon: up down; with a middle tensor, up mid down as three convolutions in a row."""
    down, up = _partners(tensors, "down", "up")
    _require(up.ndim >= 2 and math.prod(up.shape[2:]) == 1)
    product = _product(down, up.flatten(1), tensors.get("mid"))
    return product.scaled(scaling.of_rank(product.rank))


def _loha(tensors: Tensors, scaling: Scaling) -> Hadamard:
    """LoHa: (w1_a w1_b) times (w2_a w2_b) entry by entry, each with a Tucker core or neither."""
    if ("hada_t1" in tensors) != ("hada_t2" in tensors):
        raise IncompleteError("hada_t1" if "hada_t2" in tensors else "hada_t2")
    first, second = (_lycoris(tensors, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
    _require(first.shape == second.shape)
    return Hadamard(first, second, scaling.of_rank(first.rank))


def _lokr(tensors: Tensors, scaling: Scaling) -> Kronecker:
    """LoKr: the Kronecker product of two factors; the rank that scales it is the second's, else the first's."""
    left, rank = _factor(tensors, "lokr_w1", None)
    right, rank_right = _factor(tensors, "lokr_w2", "lokr_t2")
    rank = rank_right or rank
    _require(left.ndim == 2)
    shape = (left.shape[0] * right.shape[0], left.shape[1] * right.shape[1], *right.shape[2:])
    scale = scaling.of_rank(rank) if rank else scaling.whole
    return Kronecker(left, right.flatten(1), scale, rank, shape)


def _factor(tensors: Tensors, name: str, core: str | None) -> tuple[Tensor, int | None]:
    """Return a Kronecker factor and its rank, `None` when it is stored in full."""
    if name in tensors:
        _require(tensors.keys().isdisjoint({f"{name}_a", f"{name}_b", core}))
        whole = tensors[name]
        _require(whole.ndim in (2, 4) and 0 not in whole.shape)
        return whole, None
    if tensors.keys().isdisjoint({f"{name}_a", f"{name}_b"}):
        raise IncompleteError(name)
    product = _lycoris(tensors, name, core)
    return product.dense(), product.rank


def _lycoris(tensors: Tensors, name: str, core: str | None) -> Product:
    """Return LyCORIS's product a b; with a Tucker core, a is stored the other way round."""
    a, b = _partners(tensors, f"{name}_a", f"{name}_b")
    middle = tensors.get(core) if core else None
    _require(a.ndim == b.ndim == 2)
    return _product(b, a if middle is None else a.T, middle)


def _product(down: Tensor, up: Tensor, core: Tensor | None) -> Product:
    """Return up down or up core down, with `up` as [out, rank]."""
    _require(down.ndim in (2, 4) and up.ndim == 2 and 0 not in (*down.shape, *up.shape))
    if core is None:
        _require(up.shape[1] == down.shape[0])
        return Product(down, up.reshape(*up.shape, *(1,) * (down.ndim - 2)))
    _require(core.ndim == 4 and math.prod(down.shape[2:]) == 1 and 0 not in core.shape)
    _require(core.shape[:2] == (up.shape[1], down.shape[0]))
    return tucker(down.flatten(1), core, up)


def _magnitude(tensors: Tensors, inner: Additive) -> Tensor | None:
    """Return DoRA's lengths as [out, 1] or [1, in]; `None` where there are none.

    PEFT always takes output rows, whatever shape it writes. In the others' files the shape tells the axis.
    """
    if "magnitude" in tensors:
        lengths, by_rows = tensors["magnitude"], True
    elif "dora_scale" in tensors:
        lengths = tensors["dora_scale"]
        by_rows = lengths.ndim < 2 or (lengths.shape[0] == inner.shape[0] and math.prod(lengths.shape[1:]) == 1)
        _require(by_rows or lengths.shape[:2] == (1, lengths.numel()))
    else:
        return None
    _require(not by_rows or lengths.numel() == inner.shape[0])
    return lengths.reshape(-1, 1) if by_rows else lengths.reshape(1, -1)


def _partners(tensors: Tensors, *roles: str) -> tuple[Tensor, Tensor]:
    for role in roles:
        if role not in tensors:
            raise IncompleteError(role)
    first, second = (tensors[role] for role in roles)
    return first, second


def _require(fits: bool) -> None:
    if not fits:
        raise MisshapenError("that do not fit together")
