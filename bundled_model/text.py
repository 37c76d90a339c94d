"""Tokenizer and text encoder: a small byte-pair vocabulary learned from the captions, a tiny CLIP text model."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bundled_model.captions import coloured
from bundled_model.styles import RENDERERS, style_words

MAX_LENGTH = 77
HIDDEN = 96
END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA = ("turn", "it", "into", "a", "of", "in", "the", "style", "picture", "photo", "photograph")
EXTRA += ("painting", "drawing", "sketch", "art", "watercolour", "colorful", "dark", "bright")


def byte_symbols() -> list[str]:
    """Return the printable characters that CLIP's tokenizer uses for the 256 bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [256 + place for place, _ in enumerate(byte for byte in range(256) if byte not in plain)]
    return [chr(code) for code in plain + moved]


def corpus(records: list[dict]) -> Counter[str]:
    """How often every word occurs in captions and style words."""
    words = Counter({word: 50 for word in EXTRA})
    for record in records:
        words.update(coloured(record["thing"], record["colour"]).replace("-", " - ").split())
    for style in RENDERERS:
        words.update({word: 500 for word in style_words(style).split()})
    return words


def learn_merges(words: Counter[str], least: int) -> list[tuple[str, str]]:
    """Byte-pair merges of every pair seen at least ``least`` times."""
    split = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words if word.isascii()}
    merges = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs or max(pairs.values()) < least:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = {word: join(parts, best) for word, parts in split.items()}


def join(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge every occurrence of the pair."""
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] = "".join(pair)
        else:
            out.append(part)
    return out


def write_tokenizer(records: list[dict], folder: Path, least: int = 3) -> CLIPTokenizer:
    """Learn the vocabulary, write ``vocab.json`` and ``merges.txt``, and load them with transformers."""
    merges = learn_merges(corpus(records), least)
    symbols = byte_symbols()
    entries = symbols + [symbol + END_OF_WORD for symbol in symbols]
    entries += [entry for entry in dict.fromkeys("".join(pair) for pair in merges) if entry not in set(entries)]
    vocabulary = {entry: number for number, entry in enumerate([*entries, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text model for the vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        projection_dim=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> np.ndarray:
    """Token numbers, padded to the full length as the pipeline does."""
    padded = tokenizer(prompts, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="np")
    return padded.input_ids
