"""The prompts that a style is trained with: trigger words and captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def make_prompt(trigger: str, caption: str) -> str:
    """Return the prompt of a picture: the trigger words, then the caption."""
    return ", ".join(filter(None, (trigger.strip(), caption.strip().strip(",").strip())))


def remove_trigger(trigger: str, prompt: str) -> str:
    """Return the caption in a prompt that `make_prompt` has made."""
    return prompt.removeprefix(trigger.strip()).removeprefix(",").strip()


def choose_sheet_captions(known: Mapping[Path, str], count: int) -> list[str]:
    """Return the first different captions, for the sample sheets."""
    return list(dict.fromkeys(known.values()))[:count]
