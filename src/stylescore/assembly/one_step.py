"""Applies a one-step generator that is a LoRA: from its file and its base model to pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import resolve_model
from stylescore.config.execution import ExecutionConfig
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.adapters import Route
from stylescore.diffusion.one_step import OneStep
from stylescore.errors import ModelError, memory_limit, quote
from stylescore.generators.files import GeneratorFacts, read_facts
from stylescore.generators.kinds import resolve_options
from stylescore.generators.layers import CELL, cells
from stylescore_apply.networks import Array, Facts

BYTES_PER_PIXEL = 64
"""Memory of a picture outside the networks, which compute large ones in tiles of their own."""


@dataclass(frozen=True)
class OneStepNetwork:
    """A base model with a generator's LoRA, called as `stylescore_apply` calls its networks.

    Attributes:
        facts: what applying it needs to know.
        stylizer: the model with the LoRA as its style.
        step: the pass of its network.
        notes: what a user should know, one line each.
    """

    facts: Facts
    stylizer: Stylizer
    step: OneStep
    notes: tuple[str, ...] = ()

    @torch.inference_mode()
    def __call__(self, photo: Array, noise: Array | None) -> Array:
        """Return pictures [n, 3, h, w] in [0, 1] for photos [n, 3, h, w] and noise [n, channels, rows, columns].

        Raises:
            MemoryLimitError: there is not enough memory.
        """
        device, (height, width) = self.stylizer.device, photo.shape[-2:]
        networks = self.stylizer.networks_for(cells(height), cells(width))
        step = self.step.in_tiles(networks.base.tile, networks.codec.tile)
        with memory_limit("stylizing the picture"):
            pixels, drawn = (
                None if values is None else torch.from_numpy(np.array(values)).to(device) for values in (photo, noise)
            )
            assert pixels is not None
            picture = step.picture(step.latent(pixels, drawn, Route(style=True)), (height, width)).clamp(0, 1)
        return picture.cpu().numpy()


def load_one_step(path: Path, model: str | None = None, device: str = "auto") -> OneStepNetwork:
    """Load a generator that is a LoRA, and its base model.

    Args:
        path: the LoRA's file.
        model: the base model; `None` takes the one that the file names.
        device: where it computes.

    Raises:
        ModelError: the file is not such a generator, or the model is not there or does not fit it.
        StyleError: the LoRA cannot be used.
    """
    facts = read_facts(path)
    if not facts.is_lora:
        raise ModelError(f"the generator {str(path)!r} is a network of its own", hint="stylescore apply runs it")
    base = _base(path, facts, model)
    run = RunConfig(
        styles=(StyleChoice(name=str(path.absolute())),),
        model=base,
        execution=ExecutionConfig(device=device, style_weights="adapter"),
    )
    stylizer = Stylizer(replace(run, method=replace(run.method, style_strength=1.0)))
    networks = stylizer.networks
    networks.codec.vae.float()  # as in training: some overflow in half precision
    _check_cells(networks.codec.factor, facts, int(networks.codec.vae.config.latent_channels))
    timestep = resolve_options(facts.network, facts.options)["timestep"]
    step = OneStep(networks.style, networks.codec, networks.text([facts.prompt]), timestep)
    return OneStepNetwork(_apply_facts(facts), stylizer, step, networks.base_notes)


def _base(path: Path, facts: GeneratorFacts, model: str | None) -> str:
    """Return the name of the base model.

    Raises:
        ModelError: the file names one that is not there.
    """
    if model is not None:
        return model
    try:
        return resolve_model(facts.base).reference
    except ModelError as error:
        raise ModelError(
            f"the generator {str(path)!r} is a LoRA of the model {quote(facts.base)}, which is not found by this name",
            hint="give the model's folder, file or hub id with --model",
        ) from error


def _check_cells(factor: int, facts: GeneratorFacts, channels: int) -> None:
    """Raise `ModelError` unless a model's latents have the cells and channels of a generator's noise."""
    if (factor, channels) != (CELL, facts.noise_channels):
        raise ModelError(
            f"the generator's noise has {facts.noise_channels} channels and cells of {CELL} pixels, the latents of the "
            f"model have {channels} and {factor}",
            hint=f"use the model {facts.base!r} that it was trained on",
        )


def _apply_facts(facts: GeneratorFacts) -> Facts:
    return Facts(
        network=facts.network,
        style=facts.style,
        noise_channels=facts.noise_channels,
        noise_scale=facts.noise_scale,
        multiple=facts.multiple,
        context=None,
        bytes_per_pixel=BYTES_PER_PIXEL,
        size=facts.size,
        licence=facts.licence,
    )
