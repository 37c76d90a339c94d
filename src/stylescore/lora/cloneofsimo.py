"""Which module each number means in the files of the first LoRA trainer for Stable Diffusion.

That program wrote no names. It walked through the network's attention and gated feed-forward classes in the order
in which the libraries of its time built them: down, up, middle; in a block attn1, feed-forward, attn2. The classes
it walked through stand in the metadata, as a JSON list for each part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from stylescore.lora.keys import Part

ATTENTION = frozenset({"CrossAttention", "Attention"})
GATE = "GEGLU"
TEXT_ATTENTION = "CLIPAttention"
USUAL: Mapping[str, tuple[str, ...]] = {
    "unet": ("CrossAttention", "Attention", GATE),
    "text_encoder": (TEXT_ATTENTION,),
}
IN_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
IN_TEXT_ATTENTION = ("k_proj", "v_proj", "q_proj", "out_proj")
REGIONS = ("down_blocks", "up_blocks", "mid_block")
BLOCK = re.compile(r"((\w+)\..+\.transformer_blocks\.\d+)\.attn1\.to_q")
LAYER = re.compile(r"(.*\blayers\.\d+\.self_attn)\.k_proj")


def walked_classes(metadata: Mapping[str, str], part: Part) -> tuple[str, ...]:
    """Return the classes whose layers were numbered; the trainer's usual ones where nothing is said."""
    try:
        stated = json.loads(metadata.get(part, "null"))
    except (ValueError, RecursionError):
        stated = None
    return tuple(map(str, stated)) if isinstance(stated, list) else USUAL.get(part, ())


def unknown_classes(metadata: Mapping[str, str]) -> list[str]:
    """Return classes that were numbered in an order nobody can tell any more."""
    known = {"unet": {*ATTENTION, GATE}, "text_encoder": {TEXT_ATTENTION}}
    parts: tuple[Part, ...] = ("unet", "text_encoder")
    return sorted({name for part in parts for name in walked_classes(metadata, part)} - set().union(*known.values()))


def numbered(modules: Iterable[str], part: Part, metadata: Mapping[str, str]) -> dict[str, str]:
    """Map each number to the module of this network that it means."""
    names = _unet(modules, walked_classes(metadata, part)) if part == "unet" else _text(modules)
    return {str(number): name for number, name in enumerate(names)}


def _unet(modules: Iterable[str], classes: tuple[str, ...]) -> list[str]:
    blocks = [(match[2], match[1]) for name in modules if (match := BLOCK.fullmatch(name))]
    blocks.sort(key=lambda block: (REGIONS.index(block[0]), _digits(block[1])))
    return [f"{block}.{layer}" for _, block in blocks for layer in _in_block(classes)]


def _in_block(classes: tuple[str, ...]) -> list[str]:
    first, second = ([f"{name}.{layer}" for layer in IN_ATTENTION] for name in ("attn1", "attn2"))
    attends, gates = not ATTENTION.isdisjoint(classes), GATE in classes
    return first * attends + ["ff.net.0.proj"] * gates + second * attends


def _text(modules: Iterable[str]) -> list[str]:
    layers = sorted((match[1] for name in modules if (match := LAYER.fullmatch(name))), key=_digits)
    return [f"{layer}.{name}" for layer in layers for name in IN_TEXT_ATTENTION]


def _digits(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))
