"""Reads a LoRA file's metadata: title, base model, trigger words, added tokens.

Standard library only, so that styles can be listed without loading torch. Trainers write into metadata what they like:
everything here is a suggestion, and no file is refused because of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stylescore.storage.safetensors_header import SafetensorsHeader
from stylescore.storage.texts import parse_json
from stylescore_apply.names import KEY

BASE_WEIGHTS = "stylescore.base_weights"
"""Key under which a style trained here states the fingerprint of its base."""
_BASE_KEYS = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
_TITLE_KEYS = ("modelspec.title", "ss_output_name")
_TRIGGER_KEYS = ("modelspec.trigger_phrase",)
_HINT_KEYS = ("modelspec.usage_hint",)
_MOST_TAGS = 3
_MOST_DIGITS = 3
_EMPTY = {"", "None", "none", "null"}
_ADDED_TOKEN = re.compile(r"<[^<>]+>")
_BUNDLED = re.compile(
    r"bundle_emb\.(?P<token>.+?)\.(?P<key>string_to_param\.\*|emb_params|clip_l|clip_g|t5xxl|t5|(?:clip_l|clip_g|t5)_out)"
)
_BUNDLED_NOTE = re.compile(r"bundle_emb\..+\.(?:string_to_token\..+|name|step)")


def one_step_generator(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the facts of the one-step generator that a LoRA is; nothing for any other LoRA."""
    try:
        facts: Any = parse_json(metadata.get(KEY, "{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and facts.get("network") == "lora" else {}


def first_of(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    """Return the value of the first of `keys` that has one."""
    values = (metadata.get(key, "").strip() for key in keys)
    return next((value for value in values if value not in _EMPTY), None)


def title(metadata: Mapping[str, str]) -> str | None:
    """Return the name that its author gave the LoRA."""
    return first_of(metadata, _TITLE_KEYS)


def base_model(metadata: Mapping[str, str]) -> str | None:
    """Return the model that the metadata say the LoRA was trained on."""
    return first_of(metadata, _BASE_KEYS)


def stated_clip_skip(metadata: Mapping[str, str]) -> int | None:
    """Return the layer of CLIP that the LoRA was trained with, counted from the last, 1; `None` if not stated."""
    stated = first_of(metadata, ("ss_clip_skip",))
    return int(stated) if stated is not None and re.fullmatch(r"[1-9]\d?", stated) else None


def stated_trigger_words(header: SafetensorsHeader) -> tuple[str, ...]:
    """Return the words of which the file says that they trigger the style, else its added tokens, joined.

    These may stand in a prompt without anybody having looked at them, so nothing is guessed here.
    """
    stated = _join_list(first_of(header.metadata, _TRIGGER_KEYS))
    tokens = added_tokens(header)
    return (stated,) if stated is not None else ((join_tokens(tokens),) if tokens else ())


def trigger_or_name(stated: Sequence[str], name: str) -> str:
    """Return the first of a style's stated trigger words, else its name in plain words."""
    return stated[0] if stated else name.replace("-", " ").replace("_", " ")


def _join_list(stated: str | None) -> str | None:
    """Return stated words as one text: some programs write them as a JSON list."""
    try:
        words: Any = parse_json(stated or "")
    except ValueError:
        return stated
    is_list = isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words)
    return ", ".join(words) if is_list else stated


def suggested_trigger_words(header: SafetensorsHeader) -> tuple[str, ...]:
    """Return words that may trigger the style, from the most reliable source; empty if none is known.

    In this order: those that the file states, `modelspec.usage_hint`, the token in training folders called
    "repeats_token", the most frequent tags of the training pictures. The last three are for a user to look at.
    """
    hint = first_of(header.metadata, _HINT_KEYS)
    stated = stated_trigger_words(header) or ((hint,) if hint is not None else ())
    folders = _tag_frequency(header.metadata)
    return stated or _folder_tokens(folders) or _frequent_tags(folders)


def split_added_token(name: str) -> tuple[str, str] | None:
    """Split the name of an added token's embedding into the token and the name of a tensor in an embedding's own file.

    cloneofsimo's trainer names the tensor like the token; kohya's and OneTrainer's files bundle whole embedding files
    as `bundle_emb.TOKEN.NAME`. `None` for other tensors.
    """
    if _ADDED_TOKEN.fullmatch(name):
        return name, name
    match = _BUNDLED.fullmatch(name)
    return (match["token"], match["key"]) if match else None


def belongs_to_added_token(name: str) -> bool:
    """Tell whether a tensor is the embedding of an added token, or tells of one without changing anything."""
    return split_added_token(name) is not None or _BUNDLED_NOTE.fullmatch(name) is not None


def added_tokens(header: SafetensorsHeader) -> tuple[str, ...]:
    """Return the tokens whose embeddings the file holds."""
    found = (split_added_token(name) for name in header.tensors)
    return tuple(sorted({token for token, _ in filter(None, found)}))


def join_tokens(tokens: Sequence[str]) -> str:
    """Join added tokens to one text for a prompt: those in angle brackets directly, others as a list."""
    is_bracketed = all(_ADDED_TOKEN.fullmatch(token) for token in tokens)
    return ("" if is_bracketed else ", ").join(tokens)


def _tag_frequency(metadata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    try:
        folders: Any = parse_json(metadata.get("ss_tag_frequency", "{}"))
    except ValueError:
        return {}
    if not isinstance(folders, dict):
        return {}
    return {name: _counts(tags) for name, tags in folders.items() if isinstance(tags, dict)}


def _counts(tags: dict[str, Any]) -> dict[str, int]:
    return {tag.strip(): count for tag, count in tags.items() if isinstance(count, int)}


def _folder_tokens(folders: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    matches = (re.fullmatch(r"\d+_(.+)", name) for name in folders)
    return tuple(dict.fromkeys(match[1].strip() for match in matches if match and match[1].strip()))


def _frequent_tags(folders: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    total: Counter[str] = Counter()
    for tags in folders.values():
        total.update(tags)
    return tuple(tag for tag, _ in total.most_common(_MOST_TAGS) if tag)
