"""Builds the changes of one module from its tensors, whichever kind of adapter they are.

A kind is one row of the table `KINDS`: its name, the roles of its tensors, and the function that builds its change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stylescore.lora.deltas import (
    Additive,
    Change,
    Full,
    Hadamard,
    Kronecker,
    Product,
    Sum,
    WeightDecomposition,
    expand_tucker,
)
from stylescore.lora.keys import BIAS, WHOLE
from stylescore.lora.multiplicative import (
    Replacement,
    Rescaling,
    Rotation,
    Stage,
    WeightedProduct,
    butterfly,
    cayley,
    interleave,
    skew_from_triangle,
)
from stylescore.lora.settings import AdapterSettings

Shapes = Mapping[str, tuple[int, ...]]
Tensors = Mapping[str, Tensor]
_MOST_NUMBERS = 2**28
"""Most numbers of one matrix; the largest weight of the supported models has half as many."""
_MOST_TERMS = 100
"""Most terms of the series that replaces an inverse; PEFT takes 5."""
_MEAN_OF_IDENTITY = 0.5
_ONETRAINER_TERMS = 5
_OFT = frozenset({"oft_r", "oft_series", "oft_scaled"})
"""Roles of the tensors of OFT that PEFT and OneTrainer write."""


class IncompleteError(ValueError):
    """A tensor that the others need is not in the file; the message is its role."""


class ShapeError(ValueError):
    """Tensors of one module that do not fit together."""


class SettingsError(ValueError):
    """Numbers that are in no tensor are needed, and the settings beside the file are missing."""


@dataclass(frozen=True)
class Scaling:
    """How one module's change is scaled, and what else its settings say.

    Attributes:
        of_rank: returns the factor for a rank: alpha / rank, or what the adapter's settings say instead.
        without_rank: the factor where no tensor has a rank.
        module: the module's name in the file.
        settings: the adapter's settings.
    """

    of_rank: Callable[[int], float]
    without_rank: float = 1.0
    module: str = ""
    settings: AdapterSettings = field(default_factory=AdapterSettings)


@dataclass(frozen=True)
class Kind:
    """A kind of adapter.

    Attributes:
        name: its name for users, from the shapes of its tensors.
        roles: of the tensors that only this kind has.
        build: returns the change of one module's weight.
    """

    name: Callable[[Shapes], str]
    roles: frozenset[str]
    build: Callable[[Tensors, Scaling], Change]


def kind_of(shapes: Shapes) -> str:
    """Return the kind of adapter that one module's tensors make up, from their roles and shapes; empty for a bias."""
    kinds = [kind.name(shapes) for kind in _kinds_of(shapes)]
    inner = " and ".join(dict.fromkeys(kinds)) or ("" if "up_bias" in shapes else "LoRA")
    return f"DoRA on {inner}" if {"dora_scale", "magnitude"} & set(shapes) else inner


def summarize_kinds(kinds: Iterable[str]) -> str:
    """Summarize the kinds of all modules in one name; LoCon includes LoRA."""
    found = set(filter(None, kinds))
    for start in ("", "DoRA on "):
        if f"{start}LoCon" in found:
            found.discard(f"{start}LoRA")
    return " and ".join(sorted(found))


def build_changes(tensors: Tensors, scaling: Scaling) -> dict[str, Change]:
    """Build the changes of one module: that of its weight under an empty name, that of its bias under `.bias`.

    Args:
        tensors: float32 tensors by role.
        scaling: how the change is scaled.

    Raises:
        IncompleteError: a tensor is missing.
        ShapeError: shapes do not fit together.
        SettingsError: the adapter's settings are needed and unknown.
    """
    inner = _build_inner(tensors, scaling)
    changes: dict[str, Change] = {"": inner}
    if {"dora_scale", "magnitude"} & set(tensors):
        if not isinstance(inner, Additive):
            raise ShapeError("of more than one kind of adapter")
        magnitude = _read_magnitude(tensors, inner)
        changes[""] = WeightDecomposition(inner, magnitude)
    if "up_bias" in tensors:
        changes[BIAS] = Full(tensors["up_bias"].flatten(), inner.scale)
    if "ia3_l" in tensors and isinstance(inner, Rescaling) and inner.side == "rows":
        changes[BIAS] = inner
    return changes


def _build_inner(tensors: Tensors, scaling: Scaling) -> Change:
    """Return the change of the weight: of one kind, or of one with a difference that is added to it."""
    kinds = _kinds_of(tensors)
    if not kinds:
        return _build_lora(tensors, scaling)  # names what is missing
    if len(kinds) > 1 and sum(kind not in _ADDED for kind in kinds) > 1:
        raise ShapeError("of more than one kind of adapter")
    parts = tuple(kind.build(tensors, scaling) for kind in kinds)
    if len(parts) == 1:
        return parts[0]
    _require(len({part.shape for part in parts}) == 1)
    return Sum(parts)


def _kinds_of(tensors: Tensors | Shapes) -> list[Kind]:
    """Return the kinds of which a module has tensors; a whole weight beside `on_input` is IA3's."""
    roles = set(tensors) - ({WHOLE} if "on_input" in tensors else set())
    return [kind for kind in KINDS if roles & kind.roles]


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


def _build_table(tensors: Tensors, scaling: Scaling) -> Product:
    """LoRA of a table of embeddings, [tokens, width], which PEFT stores transposed: (up down)^T."""
    down, up = _require_pair(tensors, "table_down", "table_up")
    _require(down.ndim == up.ndim == 2)
    product = _build_product(up.T, down.T, None)
    return product.multiply(scaling.of_rank(product.rank))


def _build_full(tensors: Tensors, scaling: Scaling) -> Full:
    """A full difference: of a weight, of the scales of a norm, or of a bias."""
    del scaling
    return Full(tensors["diff"])


def _build_whole(tensors: Tensors, scaling: Scaling) -> Replacement:
    """A whole weight or bias, which takes the place of the model's."""
    del scaling
    return Replacement(tensors[WHOLE])


def _build_sparse(tensors: Tensors, scaling: Scaling) -> Full:
    """The sparse remainder that LyCORIS's extraction keeps beside low-rank factors, scaled like them."""
    indices, values = _require_pair(tensors, "bias_indices", "bias_values")
    if "bias_size" not in tensors:
        raise IncompleteError("bias_size")
    shape = tuple(int(side) for side in tensors["bias_size"].flatten().tolist())
    _require(min(shape, default=0) > 0)
    _require_possible(shape)
    places = indices.long()
    _require(places.shape == (len(shape), values.numel()) and values.ndim == 1)
    _require(bool((places >= 0).all()) and bool((places < torch.tensor(shape)[:, None]).all()))
    whole = torch.sparse_coo_tensor(places, values, shape, check_invariants=True).to_dense()
    return Full(whole, scaling.of_rank(tensors["down"].shape[0]) if "down" in tensors else 1.0)


def _build_ia3(tensors: Tensors, scaling: Scaling) -> Rescaling:
    """IA3: LyCORIS stores what is added to factors of 1, PEFT the factors; PEFT's shape or settings show the side."""
    if "ia3_l" in tensors:
        factors = tensors["ia3_l"]
        _require(factors.ndim in (2, 4) and factors.numel() == max(factors.shape))
        is_column = _is_feedforward(scaling) if factors.ndim == 4 else factors.shape[0] == 1
        return Rescaling(factors.flatten(), "columns" if is_column else "rows")
    if WHOLE not in tensors:
        raise IncompleteError("weight")
    added, on_input = _require_pair(tensors, WHOLE, "on_input")
    _require(added.numel() == max(added.shape, default=0) and on_input.numel() == 1)
    return Rescaling(1 + added.flatten(), "columns" if bool(on_input.item()) else "rows")


def _is_feedforward(scaling: Scaling) -> bool:
    """Tell whether PEFT's IA3 multiplies the inputs of a convolution, which its tensor does not show."""
    found = scaling.settings.is_listed("feedforward_modules", scaling.module)
    if found is None:
        raise SettingsError("IA3 of convolutions")
    return found


def _build_oft(tensors: Tensors, scaling: Scaling) -> Rotation:
    """OFT of kohya and LyCORIS, whose blocks rotate output rows; of PEFT and OneTrainer, which rotate inputs; BOFT."""
    if "oft_series" in tensors or "oft_scaled" in tensors:
        return _build_onetrainer_oft(tensors)
    if "oft_r" in tensors:
        return _build_peft_oft(tensors["oft_r"], scaling)
    if "boft_r" in tensors:
        return _build_peft_boft(tensors)
    rescale = tensors["rescale"].flatten() if "rescale" in tensors else None
    if "oft_diag" in tensors:
        return Rotation((Stage(_rotations_of_diag(tensors["oft_diag"]).mT),), "rows", rescale)
    if "oft_blocks" not in tensors:
        raise IncompleteError("oft_blocks")
    blocks = tensors["oft_blocks"]
    _require(blocks.ndim in (3, 4) and blocks.shape[-1] == blocks.shape[-2] and blocks.numel() > 0)
    rotations = cayley(_constrain(blocks - blocks.mT, tensors.get("alpha"), math.prod(blocks.shape[-3:-1])))
    if blocks.ndim == 3:
        return Rotation((Stage(rotations.mT),), "rows", rescale)
    size, entries = blocks.shape[-1], math.prod(blocks.shape[-3:-1])
    _require(size % 2 == 0 and entries % (2 ** (len(blocks) - 1) * size) == 0)
    orders = [interleave(entries, 2**stage * size // 2) for stage in range(len(blocks))]
    return Rotation(tuple(map(Stage, rotations, orders)), "rows", rescale)


def _constrain(skew: Tensor, alpha: Tensor | None, rows: int) -> Tensor:
    """Return skew-symmetric matrices whose common norm is at most alpha times the rows; alpha 0 stands for no limit."""
    limit = 0.0 if alpha is None else float(alpha.item()) * rows
    norm = float(torch.linalg.vector_norm(skew))
    return skew * (limit / norm) if 0 < limit < norm else skew


def _rotations_of_diag(blocks: Tensor) -> Tensor:
    """Return the matrices of LyCORIS's first OFT: stored as they are, or before that as what is added to the identity.

    The two have one name. They differ by the identity, which dominates the stored matrices.
    """
    _require(blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2] and blocks.numel() > 0)
    is_added = float(blocks.diagonal(dim1=-2, dim2=-1).mean()) < _MEAN_OF_IDENTITY
    return blocks + torch.eye(blocks.shape[-1]) if is_added else blocks


def _build_peft_oft(entries: Tensor, scaling: Scaling) -> Rotation:
    """OFT of PEFT: the entries above the diagonal of skew-symmetric matrices; the settings say how they rotate."""
    options = scaling.settings
    if options.is_empty:
        raise SettingsError("OFT")
    skew = _skew(entries)
    if options.flag("coft", default=False):
        longest = options.number("eps", default=6e-5) / math.sqrt(len(skew))
        norms = torch.linalg.matrix_norm(skew, keepdim=True)
        skew = torch.where(norms <= longest, skew, skew * (longest / norms.clamp_min(1e-30)))
    if options.flag("use_cayley_neumann", default=True):
        terms = int(options.number("num_cayley_neumann_terms", default=5))
        if terms > _MOST_TERMS:
            raise ValueError(f"num_cayley_neumann_terms must be at most {_MOST_TERMS}, not {terms:,}")
        rotations = cayley(skew, terms)
    else:
        rotations = cayley(-skew)
    return Rotation((Stage(rotations),), "columns", is_shared=options.flag("block_share", default=False))


def _build_onetrainer_oft(tensors: Tensors) -> Rotation:
    """OFT of OneTrainer: PEFT's with five terms, whose entries may be stored 2 sqrt(size - 1) times as large."""
    entries = tensors.get("oft_series", tensors.get("oft_r"))
    if entries is None:
        raise IncompleteError("oft_R")
    skew = _skew(entries)
    if "oft_scaled" in tensors and bool(tensors["oft_scaled"].any()):
        skew = skew / (2 * math.sqrt(skew.shape[-1] - 1))
    return Rotation((Stage(cayley(skew, _ONETRAINER_TERMS)),), "columns", is_shared=len(skew) == 1)


def _skew(entries: Tensor) -> Tensor:
    """Return skew-symmetric matrices from their entries above the diagonal, [blocks, size (size - 1) / 2]."""
    _require(entries.ndim == 2 and entries.numel() > 0)
    try:
        return skew_from_triangle(entries)
    except ValueError:
        raise ShapeError("that do not fit together") from None


def _build_peft_boft(tensors: Tensors) -> Rotation:
    """BOFT of PEFT: one matrix per stage and block, and a factor for every output row."""
    blocks, rescale = _require_pair(tensors, "boft_r", "boft_s")
    _require(blocks.ndim == 4 and blocks.shape[-1] == blocks.shape[-2] and blocks.numel() > 0)
    stages, count, size, _ = blocks.shape
    _require(stages == 1 or (size % 2 == 0 and count % 2 ** (stages - 1) == 0))
    rotations = cayley((blocks.mT - blocks) / 2)
    orders = [None] if stages == 1 else [butterfly(count * size, size, stage) for stage in range(stages)]
    return Rotation(tuple(map(Stage, rotations, orders)), "columns", rescale.flatten())


def _build_glora(tensors: Tensors, scaling: Scaling) -> WeightedProduct:
    """GLoRA: W a1 a2 + b1 b2, or with the factors of both products stored the other way round as in older files."""
    a1, a2 = (tensor.flatten(1) if tensor.ndim > 1 else tensor for tensor in _require_pair(tensors, "a1", "a2"))
    b1, b2 = _require_pair(tensors, "b1", "b2")
    _require(a1.ndim == a2.ndim == 2 and b1.ndim in (2, 4) and b2.ndim in (2, 4))
    is_old = _is_older_glora(a1.shape, a2.shape, b1.shape, b2.shape)
    (a_up, a_down), (b_up, b_down) = ((a2, a1), (b2, b1)) if is_old else ((a1, a2), (b1, b2))
    right = _build_product(a_down, a_up, None)
    added = _build_product(b_down, b_up.flatten(1), tensors.get("bm"))
    _require(right.shape == (added.shape[1], added.shape[1]))
    scale = scaling.of_rank(added.rank)
    return WeightedProduct(right.multiply(scale), added.multiply(scale))


def _is_older_glora(a1: Sequence[int], a2: Sequence[int], b1: Sequence[int], b2: Sequence[int]) -> bool:
    """Tell whether a1 and b1 are the second factors of their products; where both readings fit, by the lower rank."""
    is_older, is_newer = a1[0] == b1[0] == a2[1] == b2[1], a1[1] == b1[1] == a2[0] == b2[0]
    return is_older and (not is_newer or a1[0] < a1[1])


def _read_magnitude(tensors: Tensors, inner: Additive) -> Tensor:
    """Return DoRA's magnitudes as [out, 1] or [1, in].

    PEFT's are always those of output rows, whatever their shape. In other programs' files the shape shows the axis.
    """
    if "magnitude" in tensors:
        magnitude, is_per_row = tensors["magnitude"], True
    else:
        magnitude = tensors["dora_scale"]
        is_column = magnitude.shape[:1] == (inner.shape[0],) and math.prod(magnitude.shape[1:]) == 1
        is_per_row = magnitude.ndim < 2 or is_column
        _require(is_per_row or magnitude.shape[:2] == (1, magnitude.numel()))
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


def _always(name: str) -> Callable[[Shapes], str]:
    return lambda shapes: name


def _name_lora(shapes: Shapes) -> str:
    return "LoCon" if math.prod(shapes.get("mid", shapes.get("down", ()))[2:]) > 1 else "LoRA"


def _name_rotation(shapes: Shapes) -> str:
    return "BOFT" if "boft_r" in shapes or len(shapes.get("oft_blocks", ())) == 4 else "OFT"


_FULL = Kind(_always("full difference"), frozenset({"diff"}), _build_full)
_SPARSE = Kind(_always("sparse difference"), frozenset({"bias_indices", "bias_values", "bias_size"}), _build_sparse)
_ADDED = (_FULL, _SPARSE)
"""Kinds whose tensors may stand beside those of another kind in one module."""
KINDS: tuple[Kind, ...] = (
    Kind(_name_lora, frozenset({"down", "up", "mid"}), _build_lora),
    Kind(
        _always("LoHa"),
        frozenset({f"hada_w{n}_{side}" for n in (1, 2) for side in "ab"} | {"hada_t1", "hada_t2"}),
        _build_loha,
    ),
    Kind(
        _always("LoKr"),
        frozenset({f"lokr_w{n}{side}" for n in (1, 2) for side in ("", "_a", "_b")} | {"lokr_t2"}),
        _build_lokr,
    ),
    Kind(_always("LoRA"), frozenset({"table_down", "table_up"}), _build_table),
    Kind(_always("IA3"), frozenset({"ia3_l", "on_input"}), _build_ia3),
    Kind(_name_rotation, _OFT | {"oft_blocks", "oft_diag", "rescale", "boft_r", "boft_s"}, _build_oft),
    Kind(_always("GLoRA"), frozenset({"a1", "a2", "b1", "b2", "bm"}), _build_glora),
    Kind(_always("whole weights"), frozenset({WHOLE}), _build_whole),
    _FULL,
    _SPARSE,
)
