"""Loads what a run names: models, style adapters, device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylescore.assembly.build import Models
from stylescore.catalog.registry import resolve_model, resolve_style
from stylescore.config.method import MethodConfig
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.adapters import Adapters, adaptable, merge
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.execution.copies import copy_pays, merged_copy
from stylescore.diffusion.execution.devices import Places, pick_device, pick_dtype, require_card, require_compiler
from stylescore.diffusion.execution.memory import keep_less
from stylescore.diffusion.execution.offload import offload
from stylescore.diffusion.text import TextEncoder
from stylescore.errors import ModelError, StyleError
from stylescore.lora import Change, LoraFile, bind, read_lora, stack
from stylescore.lora.keys import Part
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import PassCounter

GRID_POINTS = 500
WINDOWS_AT_ONCE = 4
"""Of a large picture, in one call: a call for one window leaves even two CPU cores waiting."""


@dataclass(frozen=True)
class Prepared:
    """What a run needs besides its pictures.

    Attributes:
        models: the networks, adapters in place.
        style_prompt: words for the style.
        native_size: short side in pixels at which the model is at home.
        multiple: both sides of a working picture are multiples of this.
        tiny: hub id of the tiny autoencoder that is usual for the model's family.
    """

    models: Models
    style_prompt: str
    native_size: int
    multiple: int
    tiny: str | None


def prepare(run: RunConfig) -> Prepared:
    """Load everything a checked configuration names.

    Raises:
        InputError: a model, style or device that cannot be used.
    """
    device = pick_device(run.device)
    dtype = pick_dtype(run.dtype, device)
    if run.compile:
        require_compiler(device)
    if run.offload:
        require_card(device)
    loras = [(read_style(choice), choice.weight) for choice in run.styles]
    places = Places.of_run(device, run)
    base = load(run.model, dtype, places)
    styled = base if run.style_model is None else load(run.style_model, dtype, places)
    require_match(base, styled)
    counter = PassCounter()
    backbone_of = partial(make_backbone, schedule_of=styled, counter=counter, run=run)
    base_backbone = backbone_of(base)
    deltas, strength = bound(loras, styled.network, "unet"), run.method.style_strength
    if styled is not base:
        merge(styled.network, deltas, strength)
        style_backbone = backbone_of(styled)
    elif wants_copy(run, base.network):
        style_backbone = backbone_of(replace(base, network=merged_copy(base.network, deltas, strength)))
    else:
        base_backbone.adapters.add_style(deltas, strength)
        style_backbone = base_backbone
    if run.saves_memory:
        keep_less(base_backbone.adapters)
    if run.offload:
        for network in {base.network, styled.network}:
            offload(network, device)
    text = styled.text.with_added_tokens(learned_words(loras, styled.text))
    style_prompt = run.style_prompt or default_style_prompt(loras, run.styles)
    return Prepared(
        models=Models(
            base=base_backbone,
            style=style_backbone,
            codec=Codec(styled.vae, visits=device if run.saves_memory else None),
            text=text,
            style_text=adapted_text(text, loras, run.method),
            together=wants_together(run),
        ),
        style_prompt=style_prompt,
        native_size=styled.native_size,
        multiple=styled.multiple,
        tiny=styled.family.facts.tiny_autoencoder,
    )


def wants_copy(run: RunConfig, network: nn.Module) -> bool:
    """Tell whether the style goes into a copy of the network: as the run says, else where that pays."""
    if run.style_copy is not None:
        return run.style_copy
    return not run.saves_memory and copy_pays(run.method, network)


def wants_together(run: RunConfig) -> bool | None:
    """Tell whether scores are asked in one call: fewer rows take less memory, fewer calls move fewer weights.

    `None` leaves it to the number of pictures and the device.
    """
    return False if run.low_memory else True if run.offload else None


def read_style(choice: StyleChoice) -> LoraFile:
    """Read the adapter file that a style's name stands for."""
    return read_lora(resolve_style(choice.name).path)


def load(name: str, dtype: torch.dtype, places: Places) -> Components:
    """Load the model that a name stands for."""
    return load_components(resolve_model(name).location, dtype=dtype, places=places)


def make_backbone(parts: Components, *, schedule_of: Components, counter: PassCounter, run: RunConfig) -> Backbone:
    """Return a model's network as a backbone, on the noise schedule of the style's base."""
    return Backbone(
        network=compiled(parts.network, run.cuda_graphs) if run.compile else parts.network,
        adapters=Adapters.of(parts.network),
        prediction=parts.prediction(noise_schedule(schedule_of)),
        call=parts.call,
        counter=counter,
        at_once=1 if run.saves_memory else WINDOWS_AT_ONCE,
    )


def compiled(network: nn.Module, cuda_graphs: bool) -> Any:
    """Return a network through torch.compile: one graph for each shape and kind of call, none with a break."""
    return torch.compile(network, fullgraph=True, dynamic=False, mode="reduce-overhead" if cuda_graphs else "default")


def noise_schedule(parts: Components) -> NoiseSchedule:
    """Return the model's schedule on a grid of 500 points."""
    return NoiseSchedule(parts.betas, stride=max(1, len(parts.betas) // GRID_POINTS))


def bound(loras: Iterable[tuple[LoraFile, float]], network: nn.Module, part: Part) -> dict[str, Change]:
    """Return the sum of the adapters' changes to one network, by the network's own layer names."""
    shapes = adaptable(network)
    return stack([(bind(lora, shapes, part=part), weight) for lora, weight in loras])


def adapted_text(text: TextEncoder, loras: list[tuple[LoraFile, float]], method: MethodConfig) -> TextEncoder:
    """Return the style's text encoder, with the adapters' text parts unless the method leaves them out.

    Raises:
        StyleError: an adapter changes a text model that is not there.
    """
    if not method.text_encoder_lora:
        return text
    parts = sorted({part for lora, _ in loras for part in lora.parts if part != "unet"})
    for lora, _ in loras:
        require_readers(lora, text)
    deltas: dict[str, dict[str, Change]] = {part: bound(loras, text.by_name[part].model, part) for part in parts}
    return text.with_changes(deltas, method.style_strength)


def learned_words(loras: Iterable[tuple[LoraFile, float]], text: TextEncoder) -> dict[str, Tensor]:
    """Return the new words of all adapters with their embeddings; base and style are told them alike.

    Raises:
        StyleError: two adapters have one word, or a word does not fit the text model.
    """
    words: dict[str, Tensor] = {}
    shape = (text.models[0].width,)
    for lora, _ in loras:
        for word, embedding in lora.added_tokens.items():
            if word in words:
                raise StyleError(
                    f"the style {str(lora.path)!r} brings the word {word!r}, and so does another style",
                    hint="use one of them",
                )
            if embedding.shape != shape:
                raise StyleError(
                    f"the style {str(lora.path)!r} does not fit the model: its word {word!r} has the shape "
                    f"{tuple(embedding.shape)}, the words of the model {shape}",
                    hint="choose the model the style was trained on with --model",
                )
            words[word] = embedding
    return words


def require_readers(lora: LoraFile, text: TextEncoder) -> None:
    """Raise `StyleError` if an adapter changes a text model that is not there."""
    absent = [part for part in lora.parts if part != "unet" and part not in text.by_name]
    if absent:
        raise StyleError(
            f"the style {str(lora.path)!r} does not fit the model: it changes a {absent[0]}, the model has none",
            hint="choose the model the style was trained on, or leave text models as they are: "
            "--set text_encoder_lora=false",
        )


def default_style_prompt(loras: list[tuple[LoraFile, float]], choices: tuple[StyleChoice, ...]) -> str:
    """Return the adapters' first trigger words, else their names in plain words."""
    words = [
        lora.trigger_words[0] if lora.trigger_words else Path(choice.name).stem.replace("-", " ").replace("_", " ")
        for (lora, _), choice in zip(loras, choices, strict=True)
    ]
    return ", ".join(words)


def require_match(base: Components, styled: Components) -> None:
    """Raise `ModelError` unless two bases are of one family, speak of the same latents and read the same features."""
    facts: Mapping[str, tuple[Any, Any]] = {
        "family": (base.family.label, styled.family.label),
        "latent channels": (base.vae.config.latent_channels, styled.vae.config.latent_channels),
        "pixels per latent cell": (base.vae_scale, styled.vae_scale),
        "latent scale": (latent_unit(base), latent_unit(styled)),
        "text width": (base.text_width, styled.text_width),
    }
    for words, (ours, theirs) in facts.items():
        if ours != theirs:
            raise ModelError(
                f"--model and --style-model must have the same {words}, not {ours!r} and {theirs!r}",
                hint="use two models of one family",
            )


def latent_unit(parts: Components) -> tuple[float, float]:
    """Return the factor and the shift that bring a model's latents into its unit."""
    codec = Codec(parts.vae)
    return codec.scale, codec.shift
