"""Fits an adapter file to the modules of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from stylescore.errors import StyleError
from stylescore.lora.cloneofsimo import numbered
from stylescore.lora.deltas import Change, Decomposed
from stylescore.lora.families import family_of_modules, label
from stylescore.lora.keys import Part
from stylescore.lora.mmdit import Place, original_places
from stylescore.lora.reading import LoraFile
from stylescore.lora.sgm import sgm_names

TEXT_WRAPPER = "text_model_"
Modules = Mapping[str, tuple[int, ...]]


def bind(lora: LoraFile, modules: Modules, part: Part = "unet") -> dict[str, Change]:
    """Give every change of an adapter the dotted name and the shape of the module it belongs to.

    Names with underscores are resolved by the model's own module names, so any network will do; names of the
    original code of Stable Diffusion, SDXL, SD3 and FLUX are understood too, and layers that the original keeps
    in one are cut into the model's. A linear change fits a 1x1 convolution and the reverse.

    Args:
        lora: what `read_lora` returned.
        modules: weight shape of each module of the model, by dotted name.
        part: which part of the file is meant; "unet" is the denoiser, be it a U-Net or a transformer.

    Returns:
        Change by module, shaped like the module's weight; empty when the file lacks this part.

    Raises:
        StyleError: when the model lacks a module, or has one of another shape.
    """
    changes = lora.parts.get(part, {})
    places = _places(lora, modules, part) if changes else {}
    absent = [name for name in changes if _flat(name) not in places]
    if absent:
        lack = f"it lacks {len(absent)} of {len(changes)} modules, such as {absent[0]!r}"
        raise _misfit(lora, modules, lack)
    bound: dict[str, Change] = {}
    for raw, change in changes.items():
        for name, piece in _pieces(lora, modules, change, places[_flat(raw)]):
            if name in bound:
                raise StyleError(f"{str(lora.path)!r} gives {name!r} twice, in two spellings", hint="save it again")
            bound[name] = piece
    return bound


def _places(lora: LoraFile, modules: Modules, part: Part) -> dict[str, Place]:
    """Map every spelling of a layer, written with underscores, to where it belongs."""
    if lora.format == "cloneofsimo":
        return {number: Place((name,)) for number, name in numbered(modules, part, lora.metadata).items()}
    originals = {} if part != "unet" else _originals(modules)
    return originals | {_flat(name): Place((name,)) for name in modules}


def _originals(modules: Modules) -> dict[str, Place]:
    places = {name: Place((ours,)) for name, ours in sgm_names(modules).items()} | original_places(modules)
    return {_flat(name): place for name, place in places.items()}


def _flat(name: str) -> str:
    """Write a name with underscores, without the wrapper that only some versions of transformers have."""
    return name.replace(".", "_").removeprefix(TEXT_WRAPPER)


def _pieces(lora: LoraFile, modules: Modules, change: Change, place: Place) -> Iterator[tuple[str, Change]]:
    """Cut a layer's change into those of the modules it stands for."""
    shapes = [tuple(modules[name]) for name in place.modules]
    whole = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if not change.matches(whole):
        names = " with ".join(map(repr, place.modules))
        raise _misfit(lora, modules, f"{names} has shape {whole}, the LoRA changes {change.shape}")
    if len(shapes) == 1 and not place.swapped:
        yield place.modules[0], change.fitted(whole)
        return
    if len(shapes) > 1 and isinstance(change, Decomposed) and not change.by_rows:
        names = " with ".join(map(repr, place.modules))
        raise _misfit(lora, modules, f"{names} are apart there, and this DoRA gives lengths of their common columns")
    order = torch.arange(whole[0])
    order = order.roll(whole[0] // 2) if place.swapped else order
    for name, shape, rows in zip(
        place.modules, shapes, torch.split(order, [shape[0] for shape in shapes]), strict=True
    ):
        yield name, change.rows(rows).fitted(shape)


def _misfit(lora: LoraFile, modules: Modules, reason: str) -> StyleError:
    model = family_of_modules(modules)
    made = "" if lora.family == "unknown" else f"made for {label(lora.family)}"
    meant = "" if model in ("unknown", lora.family) else f"the model is {label(model)}"
    told = ", ".join(filter(None, (made, meant)))
    start = f"the style {str(lora.path)!r} does not fit the model{f' ({told})' if told else ''}"
    return StyleError(f"{start}: {reason}", hint=_advice(lora))


def _advice(lora: LoraFile) -> str:
    if lora.family == "unknown":
        return "choose the model the style was trained on with --model"
    return f"choose a model of the family {label(lora.family)} with --model, or another style"
