"""The package's own loop on a network with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.steps.networks import BETAS, Kind
from stylescore.assembly.fitting import Prompts, fit_latents
from stylescore.assembly.networks import Networks, compile_network
from stylescore.config import presets
from stylescore.config.method import MethodConfig
from stylescore.diffusion.adapters import Adapters, adaptable
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.execution.memory import enable_gradient_checkpointing
from stylescore.diffusion.execution.merging import merge_into_copy
from stylescore.diffusion.execution.offload import layer_weights, offload_layers
from stylescore.diffusion.text import TextEncoder
from stylescore.lora import Product
from stylescore.method.fit import Fitting, fit
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import PassCounter

RANK = 16
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def words(kind: Kind, device: torch.device) -> TextEncoder:
    """Return a text encoder without text models: every prompt has random features of the right size."""
    return TextEncoder((), lambda readers, prompts: kind.words(len(prompts), device, len(prompts[0])))


def reference() -> MethodConfig:
    """Return the released code's arithmetic."""
    return replace(presets.load("reference"), iterations=10**6)


def sparing() -> MethodConfig:
    """Return the same with the fake score unguided and shared, and maps made beforehand."""
    method = reference()
    fake = replace(method.fake, guidance_scale=1.0, shared=True)
    return replace(method, fake=fake, relevance=replace(method.relevance, timesteps=8))


def style_of(network: Any) -> dict[str, Product]:
    """Return a random style adapter on all attention layers."""
    shapes = {name: shape for name, shape in adaptable(network).items() if name.endswith(ATTENTION)}
    return {
        name: Product(0.01 * torch.randn(RANK, *shape[1:]), 0.01 * torch.randn(shape[0], RANK))
        for name, shape in shapes.items()
        if len(shape) == 2
    }


def fitting(
    kind: Kind,
    network: Any,
    z_source: Tensor,
    method: MethodConfig,
    *,
    together: bool = True,
    copied: bool = False,
    compiled: str | None = None,
    saving: bool = False,
    away: bool = False,
) -> Fitting:
    """Assemble a run over a batch of random latents.

    Args:
        kind: the family.
        network: its network, on its device and in its precision.
        z_source: [batch, c, h, w].
        method: constants.
        together: whether scores that share a network are asked in one call.
        copied: whether the style has a copy of the network with the adapter merged into its weights.
        compiled: "kernels" or "graphs", what torch.compile makes of the network; `None` leaves it out.
        saving: whether blocks of the trained pass are computed twice.
        away: whether the layers' weights stay in main memory.
    """
    network.requires_grad_(False)
    changes, schedule = style_of(network), NoiseSchedule(BETAS)

    def backbone(net: Any) -> Backbone:
        called = compile_network(net, "graphs" if compiled == "graphs" else "on") if compiled else net
        return Backbone(called, Adapters.of(net), kind.prediction(schedule), kind.call, counter)

    counter = PassCounter()
    base = style = backbone(network)
    if copied:
        style = backbone(merge_into_copy(network, changes, method.style_strength))
    else:
        base.adapters.add_style(changes, method.style_strength)
    if saving:
        enable_gradient_checkpointing(base.adapters)
    if away:
        offload_layers(layer_weights(network), z_source.device)
    text = words(kind, z_source.device)
    models = Networks(base=base, style=style, codec=Codec(None), text=text, style_text=text, batched=together)
    count = len(z_source)
    rng = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return fit_latents(models, method, Prompts.of(method, "style", ["a photo"] * count), z_source, rng)


def iteration(made: Fitting) -> Callable[[], object]:
    """Return what takes one iteration."""
    run = fit(made)
    return lambda: next(run)
