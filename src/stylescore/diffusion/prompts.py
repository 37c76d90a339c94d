"""Weights of words in prompts, in the notation that the AUTOMATIC1111 web interface made usual.

`(word:1.2)` weights a word by 1.2, `(word)` by 1.1, `((word))` by 1.1 squared, `[word]` by 1 / 1.1; a backslash makes a
bracket an ordinary letter. An opening bracket that is never closed holds to the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby

from stylescore.errors import ConfigError, quote

Fragments = tuple[tuple[str, float], ...]
"""Pieces of a prompt with their weights, in order."""
Parse = Callable[[str], Fragments]
"""Splits a prompt into weighted fragments."""

_EMPHASIS = 1.1
_LARGEST_WEIGHT = 10.0
_PIECE = re.compile(r"\\[\\()\[\]]|[()\[\]]|:\s*[+-]?\d*\.?\d+\s*\)|[^\\()\[\]:]+|[\\:]")
_WEIGHTED = re.compile(r"\([^()]*(?<!\d):\s*[+-]?\d*\.?\d+\s*\)|\(\([^()]*\)\)|\[[^\[\]]+\]")
"""Looks like weights: a number behind a colon, but not a time or a ratio; double brackets; square brackets."""


def parse_plain(prompt: str) -> Fragments:
    """Return the prompt as one fragment; every letter is text."""
    return ((prompt, 1.0),)


def parse_weights(prompt: str) -> Fragments:
    """Return the prompt's fragments; neighbours of one weight are joined.

    Raises:
        ConfigError: a weight that no text encoder was meant for.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in _PIECE.finditer(prompt):
        piece = match[0]
        if piece in opened:
            opened[piece].append(len(pieces))
        elif piece.endswith(")") and piece[0] in ":)" and opened["("]:
            weight = _number(piece, prompt) if piece[0] == ":" else _EMPHASIS
            _multiply(pieces, opened["("].pop(), weight)
        elif piece == "]" and opened["["]:
            _multiply(pieces, opened["["].pop(), 1 / _EMPHASIS)
        else:
            pieces.append((piece[-1] if piece[0] == "\\" and len(piece) == 2 else piece, 1.0))
    for start in opened["("]:
        _multiply(pieces, start, _EMPHASIS)
    for start in opened["["]:
        _multiply(pieces, start, 1 / _EMPHASIS)
    groups = groupby(pieces, key=lambda pair: pair[1])
    return tuple(("".join(text for text, _ in group), weight) for weight, group in groups) or (("", 1.0),)


def parse_detected(prompt: str) -> Fragments:
    """Return the prompt's fragments if it looks as if it weighted words, else the prompt as it is."""
    return parse_weights(prompt) if _WEIGHTED.search(prompt) else parse_plain(prompt)


def _number(piece: str, prompt: str) -> float:
    weight = float(piece.strip(":) \t\n"))
    if abs(weight) > _LARGEST_WEIGHT:
        raise ConfigError(
            f"the weight of a word must be between -{_LARGEST_WEIGHT:g} and {_LARGEST_WEIGHT:g}, not {weight:g} in "
            f"{quote(prompt)}",
            hint="write (word:1.2), or --prompt-weights off where brackets are text",
        )
    return weight


def _multiply(pieces: list[tuple[str, float]], start: int, factor: float) -> None:
    """Multiply the weights of all pieces from one on, in place."""
    pieces[start:] = [(text, weight * factor) for text, weight in pieces[start:]]


def describe_weights(fragments: Fragments) -> str:
    """Return the weighted words with their weights, as a line for the user; empty if there are none."""
    weighted = [(text.strip(" ,"), weight) for text, weight in fragments if weight != 1]
    return ", ".join(f"{text!r} {weight:.3g}" for text, weight in weighted if text)
