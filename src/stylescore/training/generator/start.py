"""The generator that a training goes on from: which network it fixes, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from stylescore.diffusion.adapters import adaptable
from stylescore.diffusion.one_step import LoraGenerator
from stylescore.errors import ConfigError
from stylescore.generators.exported import read_exported
from stylescore.generators.files import ENDING, GeneratorFacts, load_generator, read_facts, save_generator
from stylescore.lora import Product, bind, read_lora
from stylescore_apply.names import ENDING as EXPORTED

KEY = "--from"


def as_generator(path: Path, place: Path) -> Path:
    """Return the file of a generator; an exported one (.onnx) is written into an existing folder as such a file.

    Raises:
        ModelError: an exported one cannot be used.
        ConfigError: there is one, and the libraries of the extra `export` are not installed.
    """
    if path.suffix.lower() != EXPORTED:
        return path
    target = place / f"{path.stem}{ENDING}"
    save_generator(target, *read_exported(path))
    return target


def add_settings(given: Mapping[str, Any], start: Path) -> dict[str, Any]:
    """Return a user's settings with those that a generator's file fixes: its network, options and noise.

    Its noise may be left out with `noise` = `False`; a network that has none cannot be given one. Where no first phase
    teaches the network what one pass should make, its passes are the file's too, and with them its strength.

    Raises:
        ModelError: the file cannot be used.
        ConfigError: they contradict each other.
    """
    facts = read_facts(start)
    fixed = {"network": facts.network, **facts.options, "noise": facts.noise_channels > 0}
    for name, value in fixed.items():
        drops_noise = name == "noise" and value and not facts.is_lora
        if name in given and given[name] != value and not drops_noise:
            raise ConfigError(
                f"{name} {given[name]!r} contradicts {str(start)!r}, which has {name} {value!r}",
                hint=f"leave {name} out, or train without {KEY}",
            )
    regression = given.get("regression", {})
    if isinstance(regression, Mapping) and regression.get("steps") == 0 and "passes" not in given:
        fixed |= {"passes": facts.passes, "strength": facts.strength}
    return {**fixed, **given}


def put_start(start: Path, network: nn.Module, noise_channels: int) -> None:
    """Copy the weights of a generator's file into a new network, without those of its noise if that takes none.

    Raises:
        ModelError: the file cannot be used.
        ConfigError: it is another network, or for another model's noise.
    """
    module, facts = load_generator(start)
    if noise_channels:
        _require_noise(start, facts, noise_channels)
        network.load_state_dict(module.state_dict())
    else:
        network.load_state_dict(module.weights_without_noise())  # type: ignore[operator]


def put_lora(start: Path, generator: LoraGenerator) -> None:
    """Copy the LoRA of a generator's file into a new one.

    Raises:
        ModelError: the file is not such a generator.
        StyleError: the LoRA cannot be used.
        ConfigError: it is for another model.
    """
    _require_noise(start, read_facts(start), generator.step.channels)
    layers = generator.adapter.layers
    bound = bind(read_lora(start), adaptable(generator.step.backbone.network))
    changes = {name: change for name, change in bound.items() if isinstance(change, Product)}
    if changes.keys() != layers.keys():
        raise ConfigError(
            f"{str(start)!r} adapts {len(bound)} layers, the generator of this model {len(layers)}",
            hint=f"train without {KEY}",
        )
    for name, layer in layers.items():
        layer.put(changes[name])


def _require_noise(start: Path, facts: GeneratorFacts, noise_channels: int) -> None:
    if facts.noise_channels != noise_channels:
        raise ConfigError(
            f"{str(start)!r} takes noise of {facts.noise_channels} channels, that of this model has {noise_channels}",
            hint=f"train without {KEY}",
        )
