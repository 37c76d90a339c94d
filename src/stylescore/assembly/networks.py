"""Loads the networks of a run: models, style adapters, device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from stylescore.assembly.objectives import check_timesteps
from stylescore.assembly.sources import Sources
from stylescore.assembly.tokens import TokenSource, place_tokens, tokens_of_styles, unread_tokens
from stylescore.catalog.metadata import one_step_generator, trigger_or_name
from stylescore.catalog.registry import ModelSource, StyleSource
from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import MethodConfig
from stylescore.config.run import PredictionName, RunConfig
from stylescore.diffusion.adapters import Adapters, adaptable, changeable, merge
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.control import load_control
from stylescore.diffusion.execution.devices import (
    DevicePlacement,
    pick_device,
    pick_dtype,
    require_compiler,
    require_gpu,
)
from stylescore.diffusion.execution.memory import enable_gradient_checkpointing
from stylescore.diffusion.execution.merging import merge_into_copy, merging_is_faster
from stylescore.diffusion.execution.offload import offload
from stylescore.diffusion.families import SD
from stylescore.diffusion.fingerprint import fingerprint, other_base
from stylescore.diffusion.ip_adapter import ImageEncoder, load_ip_adapter
from stylescore.diffusion.prompts import Parse
from stylescore.diffusion.quantisation import has_quantised
from stylescore.diffusion.text import TextEncoder
from stylescore.errors import ConfigError, ModelError, StyleError
from stylescore.lora import Change, LoraFile, absent_layers, bind, read_embedding, read_lora, stack
from stylescore.lora.keys import Part
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import PassCounter

GRID_POINTS = 500
TILES_PER_CALL = 4
"""Tiles of a large picture in one call: a call for one tile leaves even two CPU cores waiting."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks of a run, adapters in place; a run changes nothing of them.

    Attributes:
        base: under the real and the fake score.
        style: under the style score; the same object where both share a base.
        codec: pictures to latents and back.
        text: encoder of every prompt but the style score's.
        style_text: encoder of the style score's prompts, with the adapters' text-encoder parts where there are any.
        control: the ControlNet of the style score, if there is one.
        image_encoder: encodes what the IP-Adapter in the network shows, if there is one.
        native_size: the model's native resolution, short side in pixels.
        multiple: both sides of a working picture are multiples of this many pixels.
        batched: whether scores that share a network are evaluated in one call; `None` does so where that is faster.
        notes: what was assumed about models and styles, and what of them is left out, one line each.
        predicts: what the base model's network predicts.
        clip_skip: the layer of CLIP whose output is used, where it is not the family's usual one.
        trigger: trigger words of the style adapters, else their names in plain words.
        tiny: hub id of the tiny autoencoder that is usual for the model's family.
        fingerprint: some weights of the base as it was loaded, see `diffusion.fingerprint`; `None` if quantised.
        base_notes: which style adapters state another base, one line each; they are among `notes`, too.
    """

    base: Backbone
    style: Backbone
    codec: Codec
    text: TextEncoder
    style_text: TextEncoder
    control: Any = None
    image_encoder: ImageEncoder | None = None
    native_size: int = 512
    multiple: int = 8
    batched: bool | None = None
    notes: tuple[str, ...] = ()
    predicts: PredictionName | None = None
    clip_skip: int | None = None
    trigger: str = ""
    tiny: str | None = None
    fingerprint: str | None = None
    base_notes: tuple[str, ...] = ()

    @property
    def text_encoders(self) -> tuple[TextEncoder, TextEncoder]:
        """The encoders of both kinds of prompts."""
        return self.text, self.style_text

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return torch.device(self.base.network.device)

    @property
    def counter(self) -> PassCounter:
        """Counts the passes through the denoising networks."""
        return self.base.counter

    @property
    def style_has_network(self) -> bool:
        """Whether the style score has a network of its own: a merged copy, or another base."""
        return self.style is not self.base

    def check(self, method: MethodConfig) -> None:
        """Raise `ConfigError` unless the model has a method's timesteps and the layers of its fake adapter."""
        _check_targets(self.base.network, method.fake.targets)
        check_timesteps(method, len(self.base.schedule.betas))

    def windows(self, prompts: Sequence[str], parse: Parse) -> int:
        """Return how many windows of the text encoder the longest of these prompts takes."""
        return self.text.reading(parse, prompts).windows

    def truncated_ends(self, prompts: Sequence[str]) -> list[str]:
        """Return the ends of prompts that the text encoder truncates."""
        return [] if self.text.splits else list(filter(None, map(self.text.truncated_end, prompts)))

    def with_tiles(self, cells: int | None, codec: int | None) -> Networks:
        """Return the same networks, evaluated in tiles of so many latent cells, the autoencoder in its own."""
        base = replace(self.base, tile=cells)
        style = base if self.style is self.base else replace(self.style, tile=cells)
        return replace(self, base=base, style=style, codec=self.codec.in_tiles(codec))


def _check_targets(network: nn.Module, targets: Sequence[str]) -> None:
    """Raise `ConfigError` unless every target of the fake adapter is the name of a layer of the model."""
    known = {name.rpartition(".")[2] for name in adaptable(network)}
    wrong = [name for name in targets if name not in known]
    if wrong or not targets:
        raise ConfigError(
            f"fake.targets must name linear layers or convolutions of the model, not "
            f"{wrong[0] if wrong else 'nothing'!r}",
            hint=f"known names: {', '.join(sorted(known))}",
        )


def load_networks(run: RunConfig, sources: Sources) -> Networks:
    """Load everything a checked configuration names.

    Raises:
        InputError: a model, style or device that cannot be used.
    """
    execution = run.execution
    device = _device(execution)
    dtype = pick_dtype(execution.dtype, device)
    loras = [(read_lora(source.path), choice.weight) for source, choice in zip(sources.styles, run.styles, strict=True)]
    places = DevicePlacement.of_run(device, execution)
    options = ModelOptions(prediction=run.prediction, vae=sources.vae, text_encoders=sources.text_encoders)
    load = partial(_load, dtype=dtype, places=places, options=options)
    base = load(sources.model)
    styled = base if sources.style_model is None else load(sources.style_model)
    _check_match(base, styled)
    stated = fingerprint(base.network)
    image_encoder = _load_ip_adapter(run.method, sources, base, device)
    make_backbone = partial(_make_backbone, schedule_of=styled, counter=PassCounter(), execution=execution)
    base_backbone = make_backbone(base)
    deltas, strength = bind_all(loras, styled.network, "unet"), run.method.style_strength
    base_notes = _base_notes(loras, sources.styles, styled.network)
    _refuse_offloaded_quantised(execution, base, styled)
    if styled is not base and has_quantised(styled.network):
        style_backbone = make_backbone(styled)
        style_backbone.adapters.add_style(deltas, strength)
    elif styled is not base:
        merge(styled.network, deltas, strength)
        style_backbone = make_backbone(styled)
    elif _merges_style(execution, run.method, base):
        style_backbone = make_backbone(replace(base, network=merge_into_copy(base.network, deltas, strength)))
    else:
        base_backbone.adapters.add_style(deltas, strength)
        style_backbone = base_backbone
    if execution.saves_memory:
        enable_gradient_checkpointing(base_backbone.adapters)
    if execution.memory == "offload":
        for network in {base.network, styled.network}:
            offload(network, device)
    skip, clip_notes = choose_clip_skip(run.clip_skip, [lora for lora, _ in loras], styled)
    control = None if run.control is None else load_control(run.control, sources.control_model, styled, device)
    loras = [(lora.for_text_encoders(styled.text.by_name), weight) for lora, weight in loras]
    tokens = place_tokens(_token_sources(run, sources, loras), styled.text)
    text = styled.text.with_added_tokens(tokens).with_clip_skip(skip)
    style_notes = (*_notes(loras, sources.styles, run.method, styled.text), *unread_tokens(tokens))
    return Networks(
        base=base_backbone,
        style=style_backbone,
        codec=Codec(styled.vae, execution_device=device if execution.saves_memory else None),
        text=text,
        style_text=_adapt_text(text, loras, run.method),
        control=control,
        image_encoder=image_encoder,
        native_size=styled.native_size,
        multiple=styled.multiple,
        batched=_batches_scores(execution),
        notes=tuple(dict.fromkeys((*base.notes, *styled.notes, *clip_notes, *base_notes, *style_notes))),
        predicts=base.predicts if base.predicts == styled.predicts else None,
        clip_skip=skip,
        trigger=_trigger(loras, sources.styles),
        tiny=styled.family.facts.tiny_autoencoder,
        fingerprint=stated,
        base_notes=tuple(base_notes),
    )


def _load_ip_adapter(
    method: MethodConfig, sources: Sources, parts: Components, device: torch.device
) -> ImageEncoder | None:
    """Load the IP-Adapter of a method that has one into the model's network; its layers are bound after that."""
    if method.method != "instantstyle":
        return None
    scales = (method.instantstyle.scale, method.instantstyle.content_scale)
    return load_ip_adapter(sources.weights, parts, scales, device)


def _device(execution: ExecutionConfig) -> torch.device:
    """Return the device of a run, if it can do what is wanted of it."""
    device = pick_device(execution.device)
    if execution.compile != "off":
        require_compiler(device)
    if execution.memory == "offload":
        require_gpu(device)
    return device


def _merges_style(execution: ExecutionConfig, method: MethodConfig, parts: Components) -> bool:
    """Tell whether the style is merged into a copy of the network: as the run says, else where that is faster."""
    match execution.style_weights:
        case "merged":
            _require_mergeable(parts)
            return True
        case "adapter":
            return False
        case "auto":
            free = not execution.saves_memory and not has_quantised(parts.network)
            return free and merging_is_faster(method, parts.network)


def _require_mergeable(parts: Components) -> None:
    """Raise `ModelError` if a style cannot be added to a model's weights because they are quantised."""
    if has_quantised(parts.network):
        raise ModelError(
            f"a style cannot be merged into {parts.name!r}, whose weights are quantised",
            hint="use --style-weights adapter; to export a generator, give its base with plain weights by --model",
        )


def _refuse_offloaded_quantised(execution: ExecutionConfig, *models: Components) -> None:
    """Raise `ModelError` if quantised weights were to be moved layer by layer, which their formats do not allow."""
    wrong = next((parts for parts in models if has_quantised(parts.network)), None)
    if execution.memory == "offload" and wrong is not None:
        raise ModelError(
            f"the weights of {wrong.name!r} are quantised, which --memory offload cannot move", hint="use --memory low"
        )


def _batches_scores(execution: ExecutionConfig) -> bool | None:
    """Tell whether scores are batched: fewer rows take less memory, fewer calls move fewer weights.

    `None` leaves it to the number of pictures and the device.
    """
    return {"normal": None, "low": False, "offload": True}[execution.memory]


def _load(source: ModelSource, dtype: torch.dtype, places: DevicePlacement, options: ModelOptions) -> Components:
    """Load a model."""
    return load_components(source.location, dtype=dtype, places=places, options=options)


def choose_clip_skip(
    given: int | None, loras: Sequence[LoraFile], parts: Components
) -> tuple[int | None, tuple[str, ...]]:
    """Return the layer of CLIP whose output is used, `None` for the family's usual one, and what to say about it.

    Raises:
        ModelError: the family's cannot be chosen, or the model has no such layer.
    """
    usual, family = parts.family.clip_skip, parts.family
    if given is not None:
        _check_clip_skip(given, parts)
        return None if given == usual else given, ()
    stated = sorted({lora.clip_skip for lora in loras if lora.clip_skip is not None})
    if not stated or stated == [usual] or usual is None:
        return None, ()
    numbers = " and ".join(map(str, stated))
    if usual != SD.clip_skip:
        return None, (
            f"clip skip {numbers}, which the style states, was without effect in its training on {family.label}",
        )
    if len(stated) > 1:
        return None, (f"the styles state clip skips {numbers}; {usual} is used, --clip-skip chooses another",)
    _check_clip_skip(stated[0], parts)
    return stated[0], (f"clip skip {stated[0]}, as the style states; --clip-skip {usual} for the model's usual layer",)


def _check_clip_skip(clip_skip: int, parts: Components) -> None:
    """Raise `ModelError` unless a model's text encoders have the layer."""
    if parts.family.clip_skip is None:
        raise ModelError(
            f"clip_skip is for Stable Diffusion 1.x, 2.x and SDXL, the model is {parts.family.label}",
            hint="leave out --clip-skip",
        )
    layers = min(int(text.model.config.num_hidden_layers) for text in parts.text.models)
    if clip_skip > layers:
        raise ModelError(
            f"clip_skip must be at most {layers}, the layers of {parts.name!r}'s text encoder, not {clip_skip}",
            hint="1 is the last layer, 2 the one before it",
        )


def _make_backbone(
    parts: Components, *, schedule_of: Components, counter: PassCounter, execution: ExecutionConfig
) -> Backbone:
    """Return a model's network as a backbone, on the noise schedule of the style's base."""
    return Backbone(
        network=parts.network if execution.compile == "off" else compile_network(parts.network, execution.compile),
        adapters=Adapters.of(parts.network),
        prediction=parts.prediction(_noise_schedule(schedule_of)),
        call=parts.call,
        counter=counter,
        tiles_per_call=1 if execution.saves_memory else TILES_PER_CALL,
    )


def compile_network(network: nn.Module, compile: Literal["on", "graphs"]) -> Any:
    """Return a network through torch.compile: one graph for each shape and kind of call, none with a break."""
    mode = "reduce-overhead" if compile == "graphs" else "default"
    return torch.compile(network, fullgraph=True, dynamic=False, mode=mode)


def _noise_schedule(parts: Components) -> NoiseSchedule:
    """Return the model's schedule on a grid of 500 points."""
    return NoiseSchedule(parts.betas, stride=max(1, len(parts.betas) // GRID_POINTS))


def bind_all(loras: Iterable[tuple[LoraFile, float]], network: nn.Module, part: Part) -> dict[str, Change]:
    """Return the sum of the adapters' changes to one network, by the network's own layer names."""
    shapes = changeable(network)
    return stack([(bind(lora, shapes, part=part), weight) for lora, weight in loras])


def _adapt_text(text: TextEncoder, loras: list[tuple[LoraFile, float]], method: MethodConfig) -> TextEncoder:
    """Return the style's text encoder, with the adapters' text parts unless the method leaves them out.

    Raises:
        StyleError: an adapter changes a text model that is not there.
    """
    if not method.text_encoder_lora:
        return text
    parts = sorted({part for lora, _ in loras for part in lora.parts if part != "unet"})
    for lora, _ in loras:
        _check_text_parts(lora, text)
    deltas: dict[str, dict[str, Change]] = {part: bind_all(loras, text.by_name[part].model, part) for part in parts}
    return text.with_changes(deltas, method.strength_of_text)


def _token_sources(run: RunConfig, sources: Sources, loras: Sequence[tuple[LoraFile, float]]) -> list[TokenSource]:
    """Return the added tokens of a run: those in its style adapters, and its separate embeddings."""
    separate = [
        TokenSource(choice.token, read_embedding(path), f"the embedding {str(path)!r}", may_repeat=True)
        for choice, path in zip(run.embeddings, sources.embeddings, strict=True)
    ]
    return [*tokens_of_styles(lora for lora, _ in loras), *separate]


def _notes(
    loras: Sequence[tuple[LoraFile, float]], styles: Sequence[StyleSource], method: MethodConfig, text: TextEncoder
) -> list[str]:
    """Return what a user should know about how the adapters are used."""
    notes = []
    for (lora, _), source in zip(loras, styles, strict=True):
        parts = sorted(set(lora.parts) - {"unet"})
        lines = [lora.assumed, _generator_note(lora), _text_note(parts, lora, method)]
        if method.text_encoder_lora:
            lines += [_layers_note(lora, part, text.by_name[part].model) for part in parts]
        notes += [f"{source.name}: {line}" for line in lines if line]
    return notes


def _generator_note(lora: LoraFile) -> str | None:
    """Return a note on an adapter that was trained for one step and is used for many."""
    if not one_step_generator(lora.metadata):
        return None
    return "it is a one-step generator's LoRA, trained for a single pass: stylescore apply runs it as such"


def _base_notes(
    loras: Sequence[tuple[LoraFile, float]], styles: Sequence[StyleSource], network: nn.Module
) -> list[str]:
    """Return a note on every adapter that states another base than the network it is used with."""
    lines = [(source.name, other_base(lora.metadata, network)) for (lora, _), source in zip(loras, styles, strict=True)]
    return [f"{name}: {line}" for name, line in lines if line]


def _text_note(parts: Sequence[Part], lora: LoraFile, method: MethodConfig) -> str | None:
    """Return a note on text encoder parts that the method leaves out."""
    if method.text_encoder_lora or not parts:
        return None
    effect = "; it changes nothing else and has no effect" if len(parts) == len(lora.parts) else ""
    return f"its changes of the text encoder are left out, as text_encoder_lora = false{effect}"


def _layers_note(lora: LoraFile, part: Part, model: nn.Module) -> str | None:
    """Return a note on layers of a text encoder that the model lacks."""
    absent = [str(number + 1) for number in absent_layers(lora, changeable(model), part)]
    return f"its changes of layer {', '.join(absent)} are left out, which the model's {part} lacks" if absent else None


def _check_text_parts(lora: LoraFile, text: TextEncoder) -> None:
    """Raise `StyleError` if an adapter changes a text model that is not there."""
    absent = [part for part in lora.parts if part != "unet" and part not in text.by_name]
    if absent:
        raise StyleError(
            f"the style {str(lora.path)!r} does not fit the model: it changes a {absent[0]}, the model has none",
            hint="choose the model the style was trained on, or leave text models as they are: "
            "--set text_encoder_lora=false",
        )


def _trigger(loras: Sequence[tuple[LoraFile, float]], sources: Sequence[StyleSource]) -> str:
    """Return the adapters' first trigger words, else their names in plain words."""
    pairs = zip(loras, sources, strict=True)
    return ", ".join(trigger_or_name(lora.trigger_words, source.name) for (lora, _), source in pairs)


def _check_match(base: Components, styled: Components) -> None:
    """Raise `ModelError` unless two bases are of one family and have the same latents and text features."""
    facts: Mapping[str, tuple[Any, Any]] = {
        "family": (base.family.label, styled.family.label),
        "latent channels": (base.vae.config.latent_channels, styled.vae.config.latent_channels),
        "pixels per latent cell": (base.vae_scale, styled.vae_scale),
        "latent scale": (_latent_unit(base), _latent_unit(styled)),
        "text width": (base.text_width, styled.text_width),
    }
    for words, (ours, theirs) in facts.items():
        if ours != theirs:
            raise ModelError(
                f"--model and --style-model must have the same {words}, not {ours!r} and {theirs!r}",
                hint="use two models of one family",
            )


def _latent_unit(parts: Components) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scale and the shift of a model's latents."""
    codec = Codec(parts.vae)
    return codec.scale, codec.shift
