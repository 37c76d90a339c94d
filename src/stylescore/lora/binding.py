"""Binds the changes of an adapter file to the modules of one model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from stylescore.catalog.families import family_label
from stylescore.errors import StyleError
from stylescore.lora.cloneofsimo import number_modules
from stylescore.lora.deltas import Change, WeightDecomposition
from stylescore.lora.detection import UNKNOWN, detect_model_family
from stylescore.lora.keys import BIAS, Part
from stylescore.lora.mmdit import Target, mmdit_targets
from stylescore.lora.multiplicative import Rescaling
from stylescore.lora.reading import LoraFile
from stylescore.lora.sgm import sgm_names

_TEXT_PREFIX = "text_model_"
_TEXT_LAYER = re.compile(r"encoder_layers_(\d+)_")
Modules = Mapping[str, tuple[int, ...]]
"""Weight shape of each module of a model, by dotted name."""


def bind(lora: LoraFile, modules: Modules, part: Part = "unet") -> dict[str, Change]:
    """Give every change of an adapter the dotted name and the shape of the module it belongs to.

    Names with underscores are resolved by the model's own module names, so this works for any network. The names of
    the original code of Stable Diffusion, SDXL, SD3 and FLUX are resolved too; a layer that the original code has
    once and the model several times is split. A change of a linear layer fits a 1x1 convolution and the reverse.
    Layers of a text encoder beyond the model's last one are left out: its features are taken before them.

    Args:
        lora: the file, as `read_lora` returns it.
        modules: weight shape of each module of the model, by dotted name; the shape of a bias as `name.bias`.
        part: the part of the file to bind; "unet" is the denoiser, be it a U-Net or a transformer.

    Returns:
        Change by module, shaped like the module's weight, and by `name.bias`; empty if the file lacks this part.

    Raises:
        StyleError: the model lacks a module, or has one of another shape.
    """
    left_out = absent_layers(lora, modules, part)
    changes = {raw: change for raw, change in lora.parts.get(part, {}).items() if _layer_number(raw) not in left_out}
    targets = _find_targets(lora, modules, part) if changes else {}
    absent = [name for name in changes if _normalize(name) not in targets]
    if absent:
        reason = f"it lacks {len(absent)} of {len(changes)} modules, such as {absent[0]!r}"
        raise _mismatch_error(lora, modules, reason)
    bound: dict[str, Change] = {}
    for raw, change in changes.items():
        for name, piece in _split(lora, modules, change, targets[_normalize(raw)]):
            if name in bound:
                raise StyleError(f"{str(lora.path)!r} gives {name!r} twice, in two spellings", hint="save it again")
            bound[name] = piece
    return bound


def absent_layers(lora: LoraFile, modules: Modules, part: Part) -> tuple[int, ...]:
    """Return the numbers, from 0, of the text encoder layers that an adapter changes beyond the model's last one."""
    if part == "unet":
        return ()
    there = {number for name in modules if (number := _layer_number(name)) is not None}
    given = {number for raw in lora.parts.get(part, {}) if (number := _layer_number(raw)) is not None}
    return tuple(sorted(number for number in given if there and number > max(there)))


def _layer_number(name: str) -> int | None:
    """Return the number of the text encoder layer that a module is in; `None` outside of them."""
    match = _TEXT_LAYER.match(_normalize(name))
    return int(match[1]) if match else None


def _find_targets(lora: LoraFile, modules: Modules, part: Part) -> dict[str, Target]:
    """Map every spelling of a layer or its bias, with underscores, to the modules that it stands for."""
    if lora.format == "cloneofsimo":
        return {number: Target((name,)) for number, name in number_modules(modules, part, lora.metadata).items()}
    weights = {name: shape for name, shape in modules.items() if not name.endswith(BIAS)}
    targets = {} if part != "unet" else _original_targets(weights)
    targets |= {name: Target((name,)) for name in weights}
    biases = {f"{name}{BIAS}": _bias_target(target) for name, target in targets.items()}
    return {_normalize(name): target for name, target in (targets | biases).items()}


def _original_targets(modules: Modules) -> dict[str, Target]:
    return {original: Target((name,)) for original, name in sgm_names(modules).items()} | mmdit_targets(modules)


def _bias_target(target: Target) -> Target:
    return replace(target, modules=tuple(f"{name}{BIAS}" for name in target.modules))


def _normalize(name: str) -> str:
    """Write a name with underscores, without the prefix that only some versions of transformers have."""
    return name.replace(".", "_").removeprefix(_TEXT_PREFIX)


def _shape_of(modules: Modules, name: str) -> tuple[int, ...]:
    """Return the shape of a module's weight or bias; a bias that the model lacks would have one number per row."""
    if name in modules or not name.endswith(BIAS):
        return tuple(modules[name])
    return (modules[name.removesuffix(BIAS)][0],)


def _split(lora: LoraFile, modules: Modules, change: Change, target: Target) -> Iterator[tuple[str, Change]]:
    """Yield the change of each module that a layer of the file stands for."""
    if isinstance(change, Rescaling) and any(name.endswith(BIAS) and name not in modules for name in target.modules):
        return  # what multiplies a bias changes nothing where there is none
    shapes = [_shape_of(modules, name) for name in target.modules]
    whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    names = " with ".join(map(repr, target.modules))
    if not change.is_compatible(whole):
        raise _mismatch_error(lora, modules, f"{names} has shape {whole}, the LoRA changes {change.shape}")
    if len(shapes) == 1 and not target.swaps_halves:
        yield target.modules[0], change.reshape(whole)
        return
    if not change.splits_by_rows and (len(shapes) > 1 or not isinstance(change, WeightDecomposition)):
        raise _mismatch_error(lora, modules, _name_indivisible(change, names, len(shapes)))
    order = torch.arange(whole[0])
    order = order.roll(whole[0] // 2) if target.swaps_halves else order
    rows = torch.split(order, [shape[0] for shape in shapes])
    for name, shape, index in zip(target.modules, shapes, rows, strict=True):
        yield name, change.select_rows(index).reshape(shape)


def _name_indivisible(change: Change, names: str, count: int) -> str:
    """Say why a change cannot be given row by row."""
    has = f"it has {names} {'as separate modules' if count > 1 else 'with its halves swapped'}"
    if isinstance(change, WeightDecomposition):
        return f"{has}, and this DoRA gives magnitudes of their common columns"
    return f"{has}, and this OFT rotates their common rows"


def _mismatch_error(lora: LoraFile, modules: Modules, reason: str) -> StyleError:
    model = detect_model_family(modules)
    made = "" if lora.family == UNKNOWN else f"made for {family_label(lora.family)}"
    given = "" if model in (UNKNOWN, lora.family) else f"the model is {family_label(model)}"
    families = ", ".join(filter(None, (made, given)))
    start = f"the style {str(lora.path)!r} does not fit the model{f' ({families})' if families else ''}"
    return StyleError(f"{start}: {reason}", hint=_mismatch_hint(lora))


def _mismatch_hint(lora: LoraFile) -> str:
    if lora.family == UNKNOWN:
        return "choose the model the style was trained on with --model"
    return f"choose a model of the family {family_label(lora.family)} with --model, or another style"
