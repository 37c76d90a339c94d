"""Which module each number means in the files of cloneofsimo's trainer, the first one for Stable Diffusion LoRAs.

That program wrote no names. It numbered the layers of the network's attention and gated feed-forward classes in the
order in which the libraries of its time built them: down, up, middle; in a block attn1, feed-forward, attn2. The
metadata list the classes whose layers were numbered, as a JSON list for each network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from stylescore.lora.keys import Part

_ATTENTION = frozenset({"CrossAttention", "Attention"})
_GATE = "GEGLU"
_TEXT_ATTENTION = "CLIPAttention"
_DEFAULT_CLASSES: Mapping[str, tuple[str, ...]] = {
    "unet": ("CrossAttention", "Attention", _GATE),
    "text_encoder": (_TEXT_ATTENTION,),
}
_ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT_ATTENTION_LAYERS = ("k_proj", "v_proj", "q_proj", "out_proj")
_REGIONS = ("down_blocks", "up_blocks", "mid_block")
_BLOCK = re.compile(r"((\w+)\..+\.transformer_blocks\.\d+)\.attn1\.to_q")
_LAYER = re.compile(r"(.*\blayers\.\d+\.self_attn)\.k_proj")


def unknown_classes(metadata: Mapping[str, str]) -> list[str]:
    """Return the classes with numbered layers whose order is not known, so that their numbers mean nothing."""
    parts: tuple[Part, ...] = ("unet", "text_encoder")
    numbered = {name for part in parts for name in _numbered_classes(metadata, part)}
    return sorted(numbered - {*_ATTENTION, _GATE, _TEXT_ATTENTION})


def number_modules(modules: Iterable[str], part: Part, metadata: Mapping[str, str]) -> dict[str, str]:
    """Map each number in a file to the module of this network that it stands for."""
    names = _unet_modules(modules, _numbered_classes(metadata, part)) if part == "unet" else _text_modules(modules)
    return {str(number): name for number, name in enumerate(names)}


def _numbered_classes(metadata: Mapping[str, str], part: Part) -> tuple[str, ...]:
    """Return the classes whose layers were numbered; the trainer's defaults where the metadata list none."""
    try:
        stated = json.loads(metadata.get(part, "null"))
    except (ValueError, RecursionError):
        stated = None
    return tuple(map(str, stated)) if isinstance(stated, list) else _DEFAULT_CLASSES.get(part, ())


def _unet_modules(modules: Iterable[str], classes: tuple[str, ...]) -> list[str]:
    blocks = [(match[2], match[1]) for name in modules if (match := _BLOCK.fullmatch(name))]
    blocks.sort(key=lambda block: (_REGIONS.index(block[0]), _numbers_in(block[1])))
    return [f"{block}.{layer}" for _, block in blocks for layer in _block_layers(classes)]


def _block_layers(classes: tuple[str, ...]) -> list[str]:
    first, second = ([f"{name}.{layer}" for layer in _ATTENTION_LAYERS] for name in ("attn1", "attn2"))
    has_attention, has_gate = not _ATTENTION.isdisjoint(classes), _GATE in classes
    return first * has_attention + ["ff.net.0.proj"] * has_gate + second * has_attention


def _text_modules(modules: Iterable[str]) -> list[str]:
    layers = sorted((match[1] for name in modules if (match := _LAYER.fullmatch(name))), key=_numbers_in)
    return [f"{layer}.{name}" for layer in layers for name in _TEXT_ATTENTION_LAYERS]


def _numbers_in(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))
