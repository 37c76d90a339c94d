"""Low-rank adapters inside a network: one U-Net serves as style, fake and real score, and as a one-step generator.

Every adapted layer computes base(x) plus the style adapter on some rows of the batch plus a trained adapter on others.
Which adapters and rows is stated by a `Route`, set for the length of one call and reset whatever happens. The style
adapter belongs to the network. A trained adapter, that of a run's fake score or of a generator, belongs to the run or
training and is part of its route: the network keeps nothing of it. It may have weights of its own for every sample, so
that pictures in one batch do not share a fake score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from stylescore.diffusion.quantisation import compute_dtype, full_weight, is_quantised, weight_shape
from stylescore.errors import ModelError
from stylescore.lora import Change, Product
from stylescore.lora.deltas import split_low_rank
from stylescore.lora.keys import BIAS
from stylescore.method.types import Rng

MODULES = RLock()
"""Held while modules are made: for loading, diffusers and transformers change how torch makes them in all threads."""


@dataclass(frozen=True)
class Route:
    """Which adapters act on a call.

    Attributes:
        style: whether the style adapter acts.
        trained: the trained adapter that acts, or `None`.
        samples: which sample's weights each of its rows uses, [rows]; needed with `trained`.
        style_rows: first and one past the last row on which the style adapter acts; `None` for all.
        trained_rows: the same for the trained adapter.
    """

    style: bool = False
    trained: TrainedAdapter | None = None
    samples: Tensor | None = None
    style_rows: tuple[int, int] | None = None
    trained_rows: tuple[int, int] | None = None

    def repeat_interleave(self, count: int) -> Route:
        """Return the same for a call in which every row is repeated so many times, one after another."""

        def scale(rows: tuple[int, int] | None) -> tuple[int, int] | None:
            return None if rows is None else (count * rows[0], count * rows[1])

        samples = None if self.samples is None else self.samples.repeat_interleave(count)
        return Route(self.style, self.trained, samples, scale(self.style_rows), scale(self.trained_rows))


PLAIN = Route()


class Switch:
    """Holds the route of the call in progress; adapted layers share one."""

    def __init__(self) -> None:
        self.route = PLAIN
        self._lock = RLock()

    def __reduce__(self) -> tuple[type[Switch], tuple[()]]:
        """Copy and pickle it without its lock, which is of one process."""
        return Switch, ()

    @contextmanager
    def set(self, route: Route) -> Iterator[None]:
        """Use `route` inside the block and the previous one after it, also when it fails; other threads wait."""
        with self._lock:
            previous, self.route = self.route, route
            try:
                yield
            finally:
                self.route = previous


class StyleLayer(nn.Module):
    """The style adapter of one layer, frozen; the strength is part of its weights.

    Attributes:
        down: of the low-rank kinds side by side, [rank, in] or [rank, in, kh, kw]; `None` when there are none.
        up: [out, rank] or [out, rank, 1, 1].
        dense: sum of the other kinds' differences, shaped like the layer's weight; `None` when there are none.
        bias: difference of the layer's bias; `None` when there is none.
    """

    down: Tensor | None
    up: Tensor | None
    dense: Tensor | None
    bias: Tensor | None

    def __init__(self, change: Change | None, bias: Change | None, strength: float, base: nn.Module) -> None:
        super().__init__()
        weight, dtype = base.weight, compute_dtype(base)
        assert isinstance(weight, Tensor)
        low, rest = (None, None) if change is None else split_low_rank(change.multiply(strength))
        dense = None if rest is None else rest.difference(full_weight(base)).to(weight.device, dtype)
        added = None if bias is None else bias.multiply(strength).difference(_bias_of(base)).to(weight.device, dtype)
        self.register_buffer("down", None if low is None else low.down.to(weight.device, dtype), persistent=False)
        self.register_buffer("up", None if low is None else low.up.to(weight.device, dtype), persistent=False)
        self.register_buffer("dense", dense, persistent=False)
        self.register_buffer("bias", added, persistent=False)

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """Return what this update adds to base(x), shaped like it."""
        parts = []
        if self.down is not None and self.up is not None:
            hidden = _apply_weight(self.down, x, base)
            parts.append(F.conv2d(hidden, self.up) if isinstance(base, nn.Conv2d) else F.linear(hidden, self.up))
        if self.dense is not None or self.bias is not None:
            parts.append(_apply(base, self.dense, self.bias, x))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _bias_of(layer: nn.Module) -> Tensor:
    """Return a layer's bias, or zeros where it has none."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    return bias if isinstance(bias, Tensor) else weight.new_zeros(weight_shape(layer)[0], dtype=compute_dtype(layer))


def _apply(base: nn.Module, weight: Tensor | None, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return what a layer like `base` makes of x with this weight and bias; `None` stands for zeros.

    A layer's output is linear in both together, so that of their differences is the difference of its outputs.
    """
    if isinstance(base, nn.Linear | nn.Conv2d):
        if weight is not None:
            return _apply_weight(weight, x, base, bias)
        assert bias is not None
        shape = (-1, 1, 1) if isinstance(base, nn.Conv2d) else (-1,)
        return bias.reshape(shape)
    present = base.weight
    assert isinstance(present, Tensor)
    values = {"weight": torch.zeros_like(present) if weight is None else weight}
    if getattr(base, "bias", None) is not None:
        values["bias"] = torch.zeros_like(present) if bias is None else bias
    output: Tensor = functional_call(base, values, (x,))
    return output if bias is None or "bias" in values else output + bias


def _apply_weight(weight: Tensor, x: Tensor, base: nn.Module, bias: Tensor | None = None) -> Tensor:
    """Return the output of a layer like `base` with this weight and bias."""
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, bias, base.stride, base.padding, base.dilation)
    return F.linear(x, weight, bias)


class TrainedLayer(nn.Module):
    """The trained adapter of one linear or convolutional layer, with weights for every sample or one for all.

    Attributes:
        lora_a: [batch, rank, in], where in counts a convolution's taps, uniform in +-1/sqrt(in) (Kaiming with
            a = sqrt(5), as peft does).
        lora_b: [batch, out, rank], zero, so that the adapter starts without effect.
    """

    def __init__(self, base: nn.Module, rank: int, alpha: float, rng: Rng) -> None:
        """Make an adapter for a linear or convolutional layer."""
        super().__init__()
        weight, (outputs, *inputs) = base.weight, weight_shape(base)
        assert isinstance(weight, Tensor)
        fan_in = math.prod(inputs)
        bound = 1 / math.sqrt(fan_in)
        draws = [torch.rand((rank, fan_in), generator=generator) for generator in rng]
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(((2 * torch.stack(draws) - 1) * bound).to(weight.device))
        self.lora_b = nn.Parameter(torch.zeros(len(rng), outputs, rank, device=weight.device))

    def forward(self, x: Tensor, samples: Tensor, base: nn.Module) -> Tensor:
        """Return scale B_s A_s x, shaped like base(x), row n of x using sample s = samples[n], or the only one."""
        samples = samples % len(self.lora_a)
        if isinstance(base, nn.Conv2d):
            return self._convolve(x, samples, base)
        a, b = self.lora_a[samples].to(x.dtype), self.lora_b[samples].to(x.dtype)
        tokens = x.reshape(len(x), -1, x.shape[-1])
        return (torch.bmm(torch.bmm(tokens, a.mT), b.mT) * self.scale).reshape(*x.shape[:-1], -1)

    def _convolve(self, x: Tensor, samples: Tensor, base: nn.Conv2d) -> Tensor:
        """Return the same for a convolution: one call for a single sample, else one group of channels per row."""
        alone = len(self.lora_a) == 1
        rows = torch.zeros_like(samples[:1]) if alone else samples
        down = self.lora_a[rows].to(x.dtype).reshape(-1, *base.weight.shape[1:])
        up = self.lora_b[rows].to(x.dtype).flatten(0, 1)[..., None, None]
        grouped = x if alone else x.reshape(1, -1, *x.shape[2:])  # [1, rows c, h, w]
        hidden = F.conv2d(grouped, down, None, base.stride, base.padding, base.dilation, groups=len(rows))
        moved = F.conv2d(hidden, up, groups=len(rows))
        return moved.reshape(len(x), -1, *moved.shape[2:]) * self.scale

    def change(self, shape: tuple[int, ...]) -> Product:
        """Return what the only sample's weights add to a weight of this shape, scale B A."""
        return Product(self.lora_a[0].detach(), self.lora_b[0].detach(), self.scale).reshape(shape)

    @torch.no_grad()
    def put(self, change: Product) -> None:
        """Copy a change of the same rank into the only sample's weights."""
        self.lora_a.copy_(change.down.reshape(self.lora_a.shape))
        self.lora_b.copy_(change.scale / self.scale * change.up.reshape(self.lora_b.shape))


class TrainedAdapter:
    """A trainable adapter for some layers of a network: that of a run's fake score, or of a generator.

    Attributes:
        layers: by the dotted name of the adapted layer.
    """

    def __init__(self, layers: Mapping[str, TrainedLayer]) -> None:
        self.layers = dict(layers)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All weights, layer by layer in the network's order."""
        return tuple(part for layer in self.layers.values() for part in (layer.lora_a, layer.lora_b))

    @property
    def state(self) -> dict[str, nn.Parameter]:
        """All weights by name, e.g. `mid_block...to_q.lora_a`."""
        return {
            f"{name}.{part}": getattr(layer, part)
            for name, layer in self.layers.items()
            for part in ("lora_a", "lora_b")
        }

    def changes(self, network: nn.Module) -> dict[str, Product]:
        """Return the change of each layer of a network, from the weights that all samples share."""
        shapes = adaptable(network)
        return {name: layer.change(shapes[name]) for name, layer in self.layers.items()}


class Adapted(nn.Module):
    """A linear or convolutional layer that adapters act on.

    Attributes:
        name: the layer's dotted name in its network.
        base: the layer.
        switch: holds the route of the call in progress.
        style: the layer's style adapter, if the style has one for it.
    """

    def __init__(self, name: str, base: nn.Module, switch: Switch) -> None:
        super().__init__()
        self.name = name
        self.base = base
        self.switch = switch
        self.style: StyleLayer | None = None

    @property
    def weight(self) -> Tensor:
        """The base layer's weight, for code that looks at its type or device."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the base layer's output plus that of the adapters on the route."""
        route, y = self.switch.route, self.base(x)
        style, samples = self.style, route.samples
        trained = None if route.trained is None else route.trained.layers.get(self.name)
        if route.style and style is not None:
            y = add_on_rows(y, x, route.style_rows, lambda some: style(some, self.base))
        if samples is not None and trained is not None:
            y = add_on_rows(y, x, route.trained_rows, lambda some: trained(some, samples, self.base))
        return y  # type: ignore[no-any-return]


def add_on_rows(y: Tensor, x: Tensor, rows: tuple[int, int] | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return y plus the change that an adapter makes of x, on all rows or on some."""
    if rows is None:
        return y + change(x)
    first, last = rows
    return torch.cat([y[:first], y[first:last] + change(x[first:last]), y[last:]])


def adaptable(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the weight shapes of all linear and convolutional layers by dotted name, without our wrappers."""
    return {
        name.removesuffix(".base"): weight_shape(module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def changeable(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all that a style adapter may change, by dotted name, without our wrappers.

    Beside linear and convolutional layers these are norms and tables of embeddings by their weights, and the biases
    of all of them as `name.bias`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not isinstance(module, Adapted):
            plain = name.removesuffix(".base")
            shapes[plain] = weight_shape(module)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                shapes[f"{plain}{BIAS}"] = tuple(bias.shape)
    return shapes


def adapt(network: nn.Module, name: str, switch: Switch) -> Adapted:
    """Wrap the layer called `name` if it is not wrapped yet, and return the wrapper."""
    parent_name, _, leaf = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    layer = getattr(parent, leaf) if not leaf.isdigit() else parent[int(leaf)]  # type: ignore[index]
    if isinstance(layer, Adapted):
        return layer
    wrapper = Adapted(name, layer, switch)
    if leaf.isdigit():
        parent[int(leaf)] = wrapper  # type: ignore[operator]
    else:
        setattr(parent, leaf, wrapper)
    return wrapper


@dataclass(frozen=True)
class Adapters:
    """The adapted layers of one network, and the switch that routes calls through them.

    Attributes:
        network: the network whose layers are wrapped.
        switch: shared by its wrapped layers.
    """

    network: nn.Module
    switch: Switch

    @classmethod
    def of(cls, network: nn.Module) -> Adapters:
        """Return the adapters of a network that has none yet."""
        return cls(network, Switch())

    def add_style(self, deltas: Mapping[str, Change], strength: float) -> None:
        """Give layers their frozen style adapter, in place of an earlier one; names are dotted module names.

        Several adapters belong into one call, summed by `stack`: a change may depend on the weight it finds.
        """
        for name in dict.fromkeys(name.removesuffix(BIAS) for name in deltas):
            layer = adapt(self.network, name, self.switch)
            layer.style = StyleLayer(deltas.get(name), deltas.get(f"{name}{BIAS}"), strength, layer.base)

    def new_fake(self, targets: Sequence[str], rank: int, alpha: float, rng: Rng) -> TrainedAdapter:
        """Return a fresh fake adapter for every layer whose name ends in a target.

        The layers come in the order of the network's own list, so a generator's draws are repeatable.
        """
        return self.new_adapter(
            [name for name in adaptable(self.network) if name.rpartition(".")[2] in targets], rank, alpha, rng
        )

    def new_adapter(self, names: Sequence[str], rank: int, alpha: float, rng: Rng) -> TrainedAdapter:
        """Return a fresh adapter for layers by dotted names, drawn in their order; it changes nothing at first."""
        with MODULES:
            layers = {name: adapt(self.network, name, self.switch) for name in names}
            return TrainedAdapter({name: TrainedLayer(layer.base, rank, alpha, rng) for name, layer in layers.items()})


def trained_route(adapter: TrainedAdapter, batch: int, rows: int, device: torch.device) -> Route:
    """Return the route on which row n uses an adapter's weights of sample n modulo batch."""
    return Route(trained=adapter, samples=torch.arange(rows, device=device) % batch)


def merge(network: nn.Module, deltas: Mapping[str, Change], strength: float) -> None:
    """Add changes to the weights themselves, W += strength (W' - W), for good.

    Several adapters belong into one call, summed by `stack`: DoRA's change depends on the weight it finds.

    Raises:
        ModelError: a weight is quantised, so that nothing can be added to it.
    """
    for name, delta in deltas.items():
        changed = _parameter(network, name)
        changed.data += (strength * delta.difference(changed)).to(changed.dtype)


def _parameter(network: nn.Module, name: str) -> Tensor:
    """Return the weight, or the bias, that a change is for; a layer without a bias gets one of zeros."""
    module = network.get_submodule(name.removesuffix(BIAS))
    if is_quantised(module):
        raise ModelError(
            f"a style cannot be merged into {name!r}, whose weights are quantised",
            hint="use --style-weights adapter; a style's text part needs text encoders that are not quantised",
        )
    if name.endswith(BIAS) and module.bias is None:
        module.bias = nn.Parameter(_bias_of(module), requires_grad=False)
    parameter = module.bias if name.endswith(BIAS) else module.weight
    assert isinstance(parameter, Tensor)
    return parameter
