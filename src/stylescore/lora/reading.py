"""Reads an adapter file into changes of weights, whatever program wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylescore.catalog.metadata import is_new_word, new_words, suggested_words
from stylescore.errors import StyleError
from stylescore.lora.cloneofsimo import unknown_classes
from stylescore.lora.deltas import Change
from stylescore.lora.families import guess_family
from stylescore.lora.keys import Format, Part, parse_key
from stylescore.lora.kinds import IncompleteError, MisshapenError, Scaling, build, kind_of, name_kinds
from stylescore.lora.settings import AdapterSettings, adapter_settings
from stylescore.lora.strangers import foreign_kind, stranger_kind
from stylescore.storage.safetensors_header import SafetensorsHeader, read_header

USABLE = "LoRA, LoCon, LoHa, LoKr and DoRA in safetensors format can be used"
AGAIN = "the file is incomplete: download it again"


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """An adapter as its file has it, not yet fitted to a model.

    Attributes:
        path: where it was read from.
        format: whose tensor names the file uses.
        kind: "LoRA", "LoCon", "LoHa", "LoKr", "DoRA on LoRA" and so on.
        family: the models it was made for, as far as names, shapes and metadata tell; else "unknown".
        ranks: the different ranks that occur, ascending.
        parts: for each network, change of each module by the file's own module name without prefix.
        words: embeddings of new words, [width] each, which the first text encoder learns.
        metadata: the header's free texts.
        trigger_words: words that call the style, most trustworthy source only.
    """

    path: Path
    format: Format
    kind: str
    family: str
    ranks: tuple[int, ...]
    parts: dict[Part, dict[str, Change]]
    words: dict[str, Tensor]
    metadata: dict[str, str]
    trigger_words: tuple[str, ...]

    @property
    def unet(self) -> dict[str, Change]:
        """Changes of the denoiser, U-Net or transformer."""
        return self.parts.get("unet", {})

    @property
    def text_encoder(self) -> dict[str, Change]:
        """Changes of the first text encoder."""
        return self.parts.get("text_encoder", {})

    @property
    def text_encoder_2(self) -> dict[str, Change]:
        """Changes of the second text encoder."""
        return self.parts.get("text_encoder_2", {})

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes of all networks."""
        return tuple(change for changes in self.parts.values() for change in changes.values())


def read_lora(path: Path | str) -> LoraFile:
    """Read an adapter file; weights are converted to float32.

    Raises:
        StyleError: when the file is missing, unsound, not finite, of a kind that cannot be used, or no adapter.
    """
    path = Path(path)
    header = read_header(path, error=StyleError)
    refuse_unusable(path, header)
    tensors = _load(path)
    modules = _collect(path, tensors)
    settings = {part: adapter_settings(path, header.metadata, part) for part, _ in modules}
    parts: dict[Part, dict[str, Change]] = {}
    for (part, name), roles in modules.items():
        parts.setdefault(part, {})[name] = _change(path, name, roles, settings[part])
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    ranks = {change.rank for changes in parts.values() for change in changes.values() if change.rank is not None}
    return LoraFile(
        path=path,
        format=file_format(header),
        kind=file_kind(header),
        family=guess_family(shapes, header.metadata),
        ranks=tuple(sorted(ranks)),
        parts=parts,
        words={word: _finite(path, word, tensors[word]) for word in new_words(header)},
        metadata=header.metadata,
        trigger_words=suggested_words(header),
    )


def refuse_unusable(path: Path, header: SafetensorsHeader) -> None:
    """Raise `StyleError` when the header shows that this is no adapter, or one that cannot be applied."""
    foreign = foreign_kind(header.tensors)
    if foreign is not None:
        raise StyleError(f"{str(path)!r} is a {foreign} file, which this version cannot use yet", hint=USABLE)
    unknown = [name for name in header.tensors if parse_key(name) is None and not is_new_word(name)]
    if not any(parse_key(name) for name in header.tensors):
        what = stranger_kind(header.tensors)
        raise StyleError(f"{str(path)!r} is {what or 'something else'}, not a LoRA", hint=USABLE)
    if unknown:
        rest = f"{len(unknown)} tensors that belong to no LoRA, such as {unknown[0]!r}"
        raise StyleError(f"{str(path)!r} holds {rest}", hint=USABLE)
    _refuse_unknown_order(path, header)


def file_format(header: SafetensorsHeader) -> Format:
    """Return whose names the file uses: those of its first tensor that tells."""
    keys = (parse_key(name) for name in header.tensors)
    return next((key.format for key in keys if key is not None and key.format is not None), "kohya")


def file_kind(header: SafetensorsHeader) -> str:
    """Return the kinds of adapter that the file's modules are."""
    shapes: dict[tuple[Part, str], dict[str, tuple[int, ...]]] = {}
    for name, entry in header.tensors.items():
        if key := parse_key(name):
            shapes.setdefault((key.part, key.module), {})[key.role] = entry.shape
    return name_kinds(kind_of(roles) for roles in shapes.values())


def _refuse_unknown_order(path: Path, header: SafetensorsHeader) -> None:
    if file_format(header) == "cloneofsimo" and (unknown := unknown_classes(header.metadata)):
        what = f"layers of {', '.join(unknown)} by number only, in an order that is not known"
        raise StyleError(f"{str(path)!r} gives {what}", hint="use a file that names its layers")


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as reason:
        raise StyleError(f"{str(path)!r} cannot be read: {reason}", hint="download the file again") from reason


def _collect(path: Path, tensors: Mapping[str, Tensor]) -> dict[tuple[Part, str], dict[str, Tensor]]:
    """Gather the tensors of each module by their role, float32 and finite."""
    modules: dict[tuple[Part, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key = parse_key(name)
        if key is None:
            continue  # the embedding of a word: `refuse_unusable` let nothing else pass
        roles = modules.setdefault((key.part, key.module), {})
        if key.role in roles:
            raise StyleError(
                f"{str(path)!r} gives {key.module!r} twice, in two spellings", hint="save it again with one"
            )
        roles[key.role] = _finite(path, name, tensor)
    return modules


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point() and tensor.numel() != 1:
        raise StyleError(f"{str(path)!r} stores {name!r} as whole numbers ({tensor.dtype})", hint=USABLE)
    values = tensor.to(torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise StyleError(
            f"{str(path)!r} has values in {name!r} that are not finite",
            hint="the training went wrong: use another file",
        )
    return values


def _change(path: Path, name: str, tensors: Mapping[str, Tensor], settings: AdapterSettings) -> Change:
    if settings.decomposed and tensors.keys().isdisjoint({"magnitude", "dora_scale"}):
        raise StyleError(f"{str(path)!r} is a DoRA that has no lengths for {name!r}", hint=AGAIN)
    try:
        return build(tensors, _scaling(path, name, tensors.get("alpha"), settings))
    except IncompleteError as lack:
        raise StyleError(f"{str(path)!r} has only a part of {name!r}: it lacks {lack}", hint=AGAIN) from None
    except MisshapenError as reason:
        shapes = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in tensors.items() if role != "alpha")
        raise StyleError(f"{str(path)!r} has tensors of {name!r} {reason}: {shapes}", hint=USABLE) from None


def _scaling(path: Path, name: str, alpha: Tensor | None, settings: AdapterSettings) -> Scaling:
    if alpha is None:
        return Scaling(lambda rank: settings.scale(name, rank), settings.whole_scale(name))
    if alpha.numel() != 1 or alpha.item() <= 0:
        told = json.dumps(alpha.tolist())
        raise StyleError(f"{str(path)!r} has an alpha of {name!r} that is no positive number: {told}")
    return Scaling(lambda rank: float(alpha.item()) / rank)
