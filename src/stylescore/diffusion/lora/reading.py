"""Reads a style-LoRA file into low-rank changes, whatever program wrote it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylescore.diffusion.lora.deltas import LowRank
from stylescore.diffusion.lora.families import guess_family
from stylescore.diffusion.lora.keys import Format, Part, Role, foreign_kind, parse_key, stranger_kind
from stylescore.diffusion.lora.settings import AdapterSettings, adapter_settings
from stylescore.errors import StyleError
from stylescore.models.metadata import trigger_words
from stylescore.safetensors_header import SafetensorsHeader, read_header

USABLE = "plain LoRA files in safetensors format (kohya, diffusers or PEFT names) can be used"
LARGEST_LAYER = 4  # out, in, height, width


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA as its file has it, not yet fitted to a model.

    Attributes:
        path: where it was read from.
        format: whose tensor names the file uses.
        family: the models it was made for, as far as names, shapes and metadata tell; else "unknown".
        ranks: the different ranks that occur, ascending.
        unet: change of each U-Net module, by the file's own module name without prefix.
        text_encoder: the same for the text encoder; a second encoder's names begin with "text_encoder_2.".
        metadata: the header's free texts.
        trigger_words: words that call the style, most trustworthy source only.
    """

    path: Path
    format: Format
    family: str
    ranks: tuple[int, ...]
    unet: dict[str, LowRank]
    text_encoder: dict[str, LowRank]
    metadata: dict[str, str]
    trigger_words: tuple[str, ...]


def read_lora(path: Path | str) -> LoraFile:
    """Read a LoRA file; weights are converted to float32.

    Raises:
        StyleError: when the file is missing, unsound, not finite, of a kind that cannot be used, or no LoRA.
    """
    path = Path(path)
    header = read_header(path, error=StyleError)
    refuse_unusable(path, header)
    modules = _collect(path, _load(path))
    changes = {part: _changes(path, header, part, modules) for part in _parts()}
    return LoraFile(
        path=path,
        format=file_format(header),
        family=guess_family({name: entry.shape for name, entry in header.tensors.items()}, header.metadata),
        ranks=tuple(sorted({change.rank for part in changes.values() for change in part.values()})),
        unet=changes["unet"],
        text_encoder=changes["text_encoder"],
        metadata=header.metadata,
        trigger_words=trigger_words(header.metadata),
    )


def refuse_unusable(path: Path, header: SafetensorsHeader) -> None:
    """Raise `StyleError` when the names in the header show that this is no plain LoRA."""
    foreign = foreign_kind(header.tensors)
    if foreign is not None:
        raise StyleError(f"{str(path)!r} is a {foreign} file, which this version cannot use yet", hint=USABLE)
    unknown = [name for name in header.tensors if parse_key(name) is None]
    if len(unknown) == len(header.tensors):
        what = stranger_kind(unknown)
        raise StyleError(f"{str(path)!r} is {what or 'something else'}, not a LoRA", hint=USABLE)
    if unknown:
        rest = f"{len(unknown)} tensors that belong to no plain LoRA, such as {unknown[0]!r}"
        raise StyleError(f"{str(path)!r} holds {rest}", hint=USABLE)


def file_format(header: SafetensorsHeader) -> Format:
    """Return whose names the file uses: those of its first tensor that tells."""
    keys = (parse_key(name) for name in header.tensors)
    return next((key.format for key in keys if key is not None and key.format is not None), "kohya")


@dataclass
class _Module:
    """The tensors of one module while the file is being gathered."""

    roles: dict[Role, Tensor] = field(default_factory=dict)


def _parts() -> tuple[Part, Part]:
    return "unet", "text_encoder"


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as reason:
        raise StyleError(f"{str(path)!r} cannot be read: {reason}", hint="download the file again") from reason


def _collect(path: Path, tensors: Mapping[str, Tensor]) -> dict[tuple[Part, str], _Module]:
    modules: dict[tuple[Part, str], _Module] = {}
    for name, tensor in tensors.items():
        key = parse_key(name)
        assert key is not None, "refuse_unusable let an unknown name pass"
        roles = modules.setdefault((key.part, key.module), _Module()).roles
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


def _changes(
    path: Path, header: SafetensorsHeader, part: Part, modules: Mapping[tuple[Part, str], _Module]
) -> dict[str, LowRank]:
    settings = adapter_settings(path, header.metadata, part)
    own = {name: module for (owner, name), module in modules.items() if owner == part}
    return dict(_each_change(path, own, settings))


def _each_change(
    path: Path, modules: Mapping[str, _Module], settings: AdapterSettings
) -> Iterator[tuple[str, LowRank]]:
    for name, module in modules.items():
        down, up = module.roles.get("down"), module.roles.get("up")
        if down is None or up is None:
            raise StyleError(
                f"{str(path)!r} has only a part of {name!r}", hint="the file is incomplete: download it again"
            )
        _check_shapes(path, name, down, up)
        alpha = module.roles.get("alpha")
        rank = down.shape[0]
        yield (
            name,
            LowRank(down, up, settings.scale(name, rank) if alpha is None else _alpha(path, name, alpha) / rank),
        )


def _check_shapes(path: Path, name: str, down: Tensor, up: Tensor) -> None:
    sides = tuple(down.shape), tuple(up.shape)
    matrix = down.ndim in (2, LARGEST_LAYER) and up.ndim in (2, LARGEST_LAYER)
    if not matrix or up.shape[1] != down.shape[0] or math.prod(up.shape[2:]) != 1 or 0 in (*sides[0], *sides[1]):
        raise StyleError(
            f"{str(path)!r} has shapes of {name!r} that do not fit together: down {sides[0]}, up {sides[1]}"
        )


def _alpha(path: Path, name: str, alpha: Tensor) -> float:
    if alpha.numel() != 1 or alpha.item() <= 0:
        raise StyleError(f"{str(path)!r} has an alpha of {name!r} that is no positive number: {alpha.tolist()!r}")
    return float(alpha.item())
