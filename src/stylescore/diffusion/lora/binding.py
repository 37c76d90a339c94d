"""Fits a LoRA file to the modules of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping

from stylescore.diffusion.lora.deltas import LowRank
from stylescore.diffusion.lora.families import cross_attention_widths, family_of_width, label
from stylescore.diffusion.lora.keys import Part
from stylescore.diffusion.lora.reading import LoraFile
from stylescore.diffusion.lora.sgm import sgm_names
from stylescore.errors import StyleError

TEXT_WRAPPER = "text_model_"


def bind(lora: LoraFile, modules: Mapping[str, tuple[int, ...]], part: Part = "unet") -> dict[str, LowRank]:
    """Give every change of a LoRA the dotted name and the shape of the module it belongs to.

    Names with underscores are resolved by the model's own module names, so any U-Net will do; names of the
    original Stable Diffusion code are understood too. A linear change fits a 1x1 convolution and the reverse.

    Args:
        lora: what `read_lora` returned.
        modules: weight shape of each module of the model, by dotted name.
        part: which half of the file is meant.

    Returns:
        Change by module, `dense()` shaped like the module's weight; empty when the file lacks this part.

    Raises:
        StyleError: when the model lacks a module, or has one of another shape.
    """
    names = _table(modules, part)
    changes = _changes(lora, part)
    absent = [name for name in changes if _flat(name) not in names]
    if absent:
        lack = f"it lacks {len(absent)} of {len(changes)} modules, such as {absent[0]!r}"
        raise StyleError(f"{_misfit(lora, modules)}: {lack}", hint=_advice(lora))
    return {names[_flat(name)]: _fitted(lora, name, names, modules, change) for name, change in changes.items()}


def _changes(lora: LoraFile, part: Part) -> dict[str, LowRank]:
    return lora.unet if part == "unet" else lora.text_encoder


def _table(modules: Mapping[str, tuple[int, ...]], part: Part) -> dict[str, str]:
    """Map every spelling of a module, written with underscores, to its dotted name."""
    originals = sgm_names(modules) if part == "unet" else {}
    spelled = {_flat(original): name for original, name in originals.items()}
    return spelled | {_flat(name): name for name in modules}


def _flat(name: str) -> str:
    """Write a name with underscores, without the wrapper that only some versions of transformers have."""
    return name.replace(".", "_").removeprefix(TEXT_WRAPPER)


def _fitted(
    lora: LoraFile,
    raw: str,
    names: Mapping[str, str],
    modules: Mapping[str, tuple[int, ...]],
    change: LowRank,
) -> LowRank:
    name = names[_flat(raw)]
    shape = tuple(modules[name])
    if not _same_layer(change.shape, shape):
        raise StyleError(
            f"{_misfit(lora, modules)}: {name!r} has shape {shape}, the LoRA changes {change.shape}",
            hint=_advice(lora),
        )
    spatial = (1,) * (len(shape) - 2)
    down = change.down.reshape(change.rank, *shape[1:])
    return LowRank(down, change.up.reshape(shape[0], change.rank, *spatial), change.scale)


def _same_layer(change: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Tell whether two weight shapes agree but for the sides of a 1x1 convolution."""
    if len(change) == len(weight):
        return change == weight
    return change[:2] == weight[:2] and math.prod(change[2:]) == math.prod(weight[2:]) == 1


def _misfit(lora: LoraFile, modules: Mapping[str, tuple[int, ...]]) -> str:
    widths = cross_attention_widths(modules)
    model = family_of_width(max(widths)) if widths else "unknown"
    start = f"the style {str(lora.path)!r} does not fit the model"
    made = "" if lora.family == "unknown" else f"made for {label(lora.family)}"
    meant = "" if model in ("unknown", lora.family) else f"the model is {label(model)}"
    told = ", ".join(filter(None, (made, meant)))
    return f"{start} ({told})" if told else start


def _advice(lora: LoraFile) -> str:
    if lora.family == "unknown":
        return "choose the model the style was trained on with --model"
    return f"choose a model of the family {label(lora.family)} with --model, or another style"
