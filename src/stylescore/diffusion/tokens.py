"""Added tokens of a tokenizer: words of a prompt that stand for vectors of their own (textual inversion)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any


def pieces_of(token: str, count: int) -> tuple[str, ...]:
    """Return the names of the vocabulary entries that stand for a token's vectors, one each."""
    return tuple(f"<|{token}:{number}|>" for number in range(count))


@dataclass(frozen=True)
class AddedTokens:
    """A tokenizer that knows added tokens: each is replaced by the entries that stand for its vectors.

    A token in angle brackets is found anywhere, another one as a whole word only, both in capitals or not. Everything
    else is passed on to the tokenizer.

    Attributes:
        tokenizer: a transformers tokenizer with the entries in its vocabulary.
        pieces: the names of the entries, by token.
    """

    tokenizer: Any
    pieces: Mapping[str, tuple[str, ...]]

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        """Return the tokens of one text or several."""
        texts = self.expand(text) if isinstance(text, str) else [self.expand(each) for each in text]
        return self.tokenizer(texts, **options)

    def expand(self, text: str) -> str:
        """Return a text with every added token replaced."""
        known = {token.casefold(): pieces for token, pieces in self.pieces.items()}
        return self._pattern.sub(lambda match: "".join(known[match[0].casefold()]), text)

    def decode(self, ids: Any, **options: Any) -> str:
        """Return the text of token ids, added tokens under their own names."""
        text = str(self.tokenizer.decode(ids, **options))
        for token, pieces in self.pieces.items():
            vectors = rf"(?:(?:{'|'.join(map(re.escape, pieces))})\s*)+"
            text = re.sub(vectors, lambda _, token=token: f"{token} ", text)
        return text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """What finds added tokens, longer ones first."""
        return re.compile("|".join(map(_as_pattern, sorted(self.pieces, key=len, reverse=True))), re.I)

    def __len__(self) -> int:
        """Return how many entries the vocabulary has."""
        return len(self.tokenizer)

    def __getattr__(self, name: str) -> Any:
        """Return what else the tokenizer has."""
        if name == "tokenizer" or name.startswith("__"):  # while a copy is made, there is none yet
            raise AttributeError(name)
        return getattr(self.tokenizer, name)


def _as_pattern(token: str) -> str:
    """Return a pattern that matches a token, one that begins or ends with a letter only as a whole word."""
    start = r"(?<!\w)" if token[:1].isalnum() else ""
    end = r"(?!\w)" if token[-1:].isalnum() else ""
    return f"{start}{re.escape(token)}{end}"
