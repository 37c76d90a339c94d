"""Applies and exports one-step generators that are LoRAs: from a file and its base model to pictures, or to ONNX."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stylescore.assembly.stylizer import LARGE, Stylizer
from stylescore.catalog.registry import resolve_model
from stylescore.config.execution import ExecutionConfig, StyleWeights
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.adapters import Route, TrainedAdapter, adaptable, trained_route
from stylescore.diffusion.execution.tiling import OVERLAP
from stylescore.diffusion.one_step import MergedGenerator, OneStep
from stylescore.errors import ModelError, memory_limit, quote
from stylescore.generators.export import Exported, export_onnx, require_extra
from stylescore.generators.files import GeneratorFacts, load_generator, read_facts
from stylescore.generators.kinds import resolve_options
from stylescore.generators.layers import CELL, cells
from stylescore.lora import Product, bind, read_lora
from stylescore_apply.names import ENDING
from stylescore_apply.networks import Array, Facts, Network, OnnxNetwork, TileRule, refuse_model

Note = Callable[[str], None]
BYTES_PER_PIXEL = 64
"""Memory of a picture outside the networks, which compute large ones in tiles of their own."""


def _ignore(note: str) -> None:
    """Take a note that nobody asked for."""


@dataclass(frozen=True)
class OneStepNetwork:
    """A base model with a generator's LoRA, called as `stylescore_apply` calls its networks.

    Attributes:
        facts: what applying it needs to know.
        stylizer: the model with the LoRA as its style.
        step: the pass of its network.
        notes: what a user should know, one line each.
        adapter: the LoRA, where it is not the stylizer's style.
    """

    facts: Facts
    stylizer: Stylizer
    step: OneStep
    notes: tuple[str, ...] = ()
    adapter: TrainedAdapter | None = None

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
            picture = step.picture(step.latent(pixels, drawn, self._route(len(photo))), (height, width)).clamp(0, 1)
        return picture.cpu().numpy()

    def _route(self, rows: int) -> Route:
        if self.adapter is None:
            return Route(style=True)
        return trained_route(self.adapter, 1, rows, self.stylizer.device)


def load_one_step(
    path: Path, model: str | None = None, device: str = "auto", *, style_weights: StyleWeights = "adapter"
) -> OneStepNetwork:
    """Load a generator that is a LoRA, and its base model.

    Args:
        path: the LoRA's file.
        model: the base model; `None` takes the one that the file names.
        device: where it computes.
        style_weights: whether the LoRA is evaluated beside the model's layers or merged into a copy.

    Raises:
        ModelError: the file is not such a generator, or the model is not there or does not fit it.
        StyleError: the LoRA cannot be used.
    """
    facts = _read_lora_facts(path)
    base = _base(path, facts, model)
    run = RunConfig(
        styles=(StyleChoice(name=str(path.absolute())),),
        model=base,
        execution=ExecutionConfig(device=device, style_weights=style_weights),
    )
    stylizer = Stylizer(replace(run, method=replace(run.method, style_strength=1.0)))
    networks = stylizer.networks
    networks.codec.vae.float()  # as in training: some overflow in half precision
    _check_cells(networks.codec.factor, facts, int(networks.codec.vae.config.latent_channels))
    step = OneStep(networks.style, networks.codec, networks.text([facts.prompt]), _options(facts)["timestep"])
    return OneStepNetwork(apply_facts(facts), stylizer, step, networks.base_notes)


def place_one_step(path: Path, stylizer: Stylizer) -> OneStepNetwork:
    """Return a generator that is a LoRA, evaluated on the networks that a stylizer has loaded, which stay as they are.

    Raises:
        ModelError: the file is not such a generator, or does not fit the stylizer's model.
        StyleError: the LoRA cannot be used.
    """
    facts, networks = _read_lora_facts(path), stylizer.networks
    base, codec = networks.base, networks.codec
    _check_cells(codec.factor, facts, int(codec.vae.config.latent_channels))
    if codec.vae.dtype != torch.float32:  # see `load_one_step`; the stylizer's own stays as it is
        codec = replace(codec, vae=copy.deepcopy(codec.vae).float())
    changes = bind(read_lora(path), adaptable(base.adapters.network))
    options, seed = _options(facts), torch.Generator().manual_seed(0)
    adapter = base.adapters.new_adapter(list(changes), options["rank"], float(options["rank"]), [seed])
    for name, change in changes.items():
        if not isinstance(change, Product):
            raise ModelError(
                f"the generator {str(path)!r} is no low-rank adapter in {name!r}",
                hint="stylescore train-generator --network lora trains one",
            )
        adapter.layers[name].put(change)
    step = OneStep(base, codec, networks.text([facts.prompt]), options["timestep"])
    return OneStepNetwork(apply_facts(facts), stylizer, step, adapter=adapter)


def open_network(
    file: Path, model: str | None = None, device: str = "auto", *, threads: int = 0, note: Note = _ignore
) -> Network:
    """Return a generator's network: an exported one, or a base model with a LoRA that makes pictures in one pass.

    A generator with a network of its own is exported beside its file first.

    Args:
        file: an ONNX file, or a generator.
        model: a LoRA's base model; `None` takes the one that its file names.
        device: where the base model computes.
        threads: number of threads, 0 for one for each core.
        note: is called with what a user should know, one line each.

    Raises:
        ConfigError: a model is named for a network that needs none, or the extra `export` is not installed.
        ModelError: the file cannot be used, or the model is not there or does not fit it.
        StyleError: the LoRA cannot be used.
    """
    is_exported = file.suffix == ENDING
    if is_exported or not read_facts(file).is_lora:
        refuse_model(model)
        return OnnxNetwork(file if is_exported else exported(file, note), threads=threads)
    if threads:
        torch.set_num_threads(threads)
    network = load_one_step(file, model, device)
    _pass_on(network.notes, note)
    return network


def exported(generator: Path, note: Note = _ignore) -> Path:
    """Return the ONNX file beside a generator, which is made if it is not there or older.

    Raises:
        ConfigError: the libraries of the extra `export` are not installed.
        ModelError: the generator cannot be used or exported.
        OutputError: the file cannot be written.
    """
    target = generator.with_suffix(ENDING)
    if not is_current(target, generator):
        note(f"{generator} is exported to {target} first")
        export(generator, target, note=note)
    return target


def is_current(target: Path, generator: Path) -> bool:
    """Return whether an exported file is there and not older than its generator."""
    return target.is_file() and target.stat().st_mtime >= generator.stat().st_mtime


def export(
    generator: Path, target: Path, model: str | None = None, *, half: bool = True, note: Note = _ignore
) -> Exported:
    """Write the ONNX file of a generator, of a LoRA with its base model.

    Args:
        generator: its file.
        target: the ONNX file, whose folder exists.
        model: a LoRA's base model; `None` takes the one that its file names.
        half: whether weights are stored in half precision.
        note: is called with what a user should know, one line each.

    Raises:
        ConfigError: the libraries of the extra `export` are not installed, or a model is named for a network that
            needs none.
        ModelError: the generator cannot be used or exported, or its model is not there or does not fit it.
        StyleError: the LoRA cannot be used.
        OutputError: the file cannot be written.
    """
    if read_facts(generator).is_lora:
        found, notes = export_one_step(generator, target, model, half=half)
        _pass_on(notes, note)
        return found
    refuse_model(model)
    require_extra()
    module, facts = load_generator(generator)
    return export_onnx(target, module, facts, half=half)


def _pass_on(notes: Iterable[str], note: Note) -> None:
    for line in notes:
        note(line)


def export_one_step(
    path: Path, target: Path, model: str | None = None, *, half: bool = True
) -> tuple[Exported, tuple[str, ...]]:
    """Write a generator that is a LoRA, merged into its base model, as an ONNX file.

    Args:
        path: the LoRA's file.
        target: the ONNX file, whose folder exists.
        model: the base model; `None` takes the one that the file names.
        half: whether weights are stored in half precision.

    Returns:
        What was found, and what a user should know, one line each.

    Raises:
        ConfigError: the libraries of the extra `export` are not installed.
        ModelError: the file is not such a generator, or the model is not there, does not fit it or cannot be exported.
        StyleError: the LoRA cannot be used.
        OutputError: the file cannot be written.
    """
    require_extra()
    facts = read_facts(path)
    network = load_one_step(path, model, "cpu", style_weights="merged")
    step, side = network.step, network.stylizer.networks.native_size
    _check_exportable(step)
    step.backbone.network.float()
    module = MergedGenerator(step).eval().requires_grad_(False)
    tiles = TileRule(largest=LARGE * side**2, side=side, overlap=int(OVERLAP * side))
    return export_onnx(target, module, facts, half=half, tiles=tiles), network.notes


def _read_lora_facts(path: Path) -> GeneratorFacts:
    """Read what a generator's file says of it.

    Raises:
        ModelError: it is not a LoRA.
    """
    facts = read_facts(path)
    if not facts.is_lora:
        raise ModelError(f"the generator {str(path)!r} is a network of its own", hint="stylescore apply runs it")
    return facts


def _options(facts: GeneratorFacts) -> Mapping[str, int]:
    return resolve_options(facts.network, facts.options)


def _check_exportable(step: OneStep) -> None:
    """Raise `ModelError` for a network that takes more than latents, a timestep and tokens."""
    if step.prompt.pooled is not None or not hasattr(step.backbone.network, "down_blocks"):
        raise ModelError(
            "only generators on models of the Stable Diffusion 1.x and 2.x kind are exported to ONNX, the model has a "
            f"{type(step.backbone.network).__name__} that takes further conditions",
            hint="stylescore apply runs it with torch; train --network mobile for a network of its own",
        )


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


def apply_facts(facts: GeneratorFacts) -> Facts:
    """Return what applying a generator with torch needs to know, which sees a picture as a whole."""
    return Facts(
        network=facts.network,
        style=facts.style,
        noise_channels=facts.noise_channels,
        noise_scale=facts.noise_scale,
        multiple=facts.multiple,
        context=None,
        bytes_per_pixel=BYTES_PER_PIXEL,
        size=facts.size,
        passes=facts.passes,
        strength=facts.strength,
        licence=facts.licence,
    )
