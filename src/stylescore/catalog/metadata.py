"""What a LoRA file's header tells about it: title, base model, trigger words.

Only standard library, so that styles can be listed without loading torch. All of it is suggestion: trainers
write what they like, and nothing is refused because of it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from stylescore.storage.safetensors_header import SafetensorsHeader

BASE_KEYS = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
TITLE_KEYS = ("modelspec.title", "ss_output_name")
MOST_TAGS = 3
EMPTY = {"", "None", "none", "null"}
NEW_WORD = re.compile(r"<[^<>]+>")


def first_of(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    """Return the first of `keys` that says something."""
    values = (metadata.get(key, "").strip() for key in keys)
    return next((value for value in values if value not in EMPTY), None)


def title(metadata: Mapping[str, str]) -> str | None:
    """Return the name its maker gave the LoRA."""
    return first_of(metadata, TITLE_KEYS)


def base_model(metadata: Mapping[str, str]) -> str | None:
    """Return the base model the LoRA says it was trained on."""
    return first_of(metadata, BASE_KEYS)


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Return the words that call the style, most trustworthy source first; empty when none is known.

    In order: `modelspec.trigger_phrase`, `modelspec.usage_hint`, the token in training folders called
    "repeats_token", the tags that most training pictures share.
    """
    stated = first_of(metadata, ("modelspec.trigger_phrase", "modelspec.usage_hint"))
    if stated is not None:
        return (stated,)
    folders = _tag_frequency(metadata)
    return _folder_tokens(folders) or _frequent_tags(folders)


def is_new_word(name: str) -> bool:
    """Tell whether a tensor is the embedding of a new word, which cloneofsimo's files keep beside the LoRA."""
    return NEW_WORD.fullmatch(name) is not None


def new_words(header: SafetensorsHeader) -> tuple[str, ...]:
    """Return the words whose embeddings the file holds."""
    return tuple(sorted(filter(is_new_word, header.tensors)))


def suggested_words(header: SafetensorsHeader) -> tuple[str, ...]:
    """Return words that call the style: those that the metadata name, else the new ones, side by side."""
    words = new_words(header)
    return trigger_words(header.metadata) or (("".join(words),) if words else ())


def _tag_frequency(metadata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    try:
        folders: Any = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(folders, dict):
        return {}
    return {name: _counts(tags) for name, tags in folders.items() if isinstance(tags, dict)}


def _counts(tags: dict[str, Any]) -> dict[str, int]:
    return {tag.strip(): count for tag, count in tags.items() if isinstance(count, int)}


def _folder_tokens(folders: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    found = (re.fullmatch(r"\d+_(.+)", name) for name in folders)
    return tuple(dict.fromkeys(match[1].strip() for match in found if match and match[1].strip()))


def _frequent_tags(folders: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    total: Counter[str] = Counter()
    for tags in folders.values():
        total.update(tags)
    return tuple(tag for tag, _ in total.most_common(MOST_TAGS) if tag)
