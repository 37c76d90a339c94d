"""All settings of a style's training, with defaults for each family of models; needs neither torch nor a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stylescore.catalog.families import MINI, SD1, SD2, SDXL, family_of_text_width
from stylescore.config.ranges import (
    ALPHA,
    COUNT,
    FRACTION,
    MOMENT,
    POSITIVE,
    SEED,
    SHORT_SIDE,
    STEPS,
    UNIT,
    WARMUP,
    Rule,
    check,
    check_texts,
)
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError

Targets = Literal["attention", "attention+conv", "b-lora", "from"]
LossName = Literal["plain", "min_snr"]
Crop = Literal["centre", "random", "scales"]
RateSchedule = Literal["constant", "cosine"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
FilePrecision = Literal["float16", "bfloat16", "float32"]

RESULT_FILE = "result.json"
"""What a training's folder says of the style that it has written."""
NAME = re.compile(r"\w[\w.+-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class StyleTrainingConfig:
    """A whole training, without its pictures.

    Attributes:
        name: of the style, and of its file.
        trigger: trigger words of the style; every prompt begins with them.
        model: the base: bundled name, folder, file or hub id.
        rank: of the adapter.
        alpha: the LoRA is scaled by alpha / rank.
        targets: attention (all linear layers of the attention blocks), or with the 3x3 convolutions; b-lora, the
            queries, keys, values and outputs of the two blocks of SDXL that carry content and style, of which the
            style's is written; from, those of the LoRA that the training goes on from.
        resolution: side in pixels of the square crops; 0 is the model's own.
        crop: the middle of each picture, or a random part at each step, which with scales is also of random size.
        buckets: whether pictures keep their aspect, in batches of one size, and small ones are not enlarged.
        flip: whether pictures are mirrored at random.
        sample_posterior: whether latents are samples of the encoder's posterior or its mean.
        caption_dropout: fraction of the draws with the empty prompt.
        trigger_dropout: fraction of the draws with the caption but no trigger words; needed where the base
            model already draws this style from its trigger words, so that the adapter has something left to learn.
        steps: number of steps.
        batch: pictures per step, over all processes.
        learning_rate: peak of AdamW's.
        rate_schedule: constant after the warm-up, or a cosine down to 0.
        warmup: steps of linear warm-up.
        weight_decay: decoupled.
        clip_norm: largest norm of the gradient; a longer one is scaled down.
        loss: plain mean square, or weighted by Min-SNR.
        min_snr_gamma: upper limit of the signal-to-noise ratio in Min-SNR.
        gradient_checkpointing: recompute activations in the backward pass instead of storing them.
        dtype: precision of the networks; adapter, optimiser and latents are always float32.
        file_dtype: precision of the written file.
        samples_every: steps between sample sheets; 0 for none.
        checkpoint_every: steps between checkpoints; 0 for one only when the training is interrupted.
        seed: of every random draw.
        device: auto, cpu, cuda, cuda:N or mps.
    """

    name: str
    trigger: str = ""
    model: str = "mini"
    rank: int = 16
    alpha: float = 16.0
    targets: Targets = "attention"
    resolution: int = 0
    crop: Crop = "centre"
    buckets: bool = False
    flip: bool = False
    sample_posterior: bool = False
    caption_dropout: float = 0.05
    trigger_dropout: float = 0.0
    steps: int = 1500
    batch: int = 1
    learning_rate: float = 1e-4
    rate_schedule: RateSchedule = "cosine"
    warmup: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    loss: LossName = "min_snr"
    min_snr_gamma: float = 5.0
    gradient_checkpointing: bool = False
    dtype: Precision = "auto"
    file_dtype: FilePrecision = "float16"
    samples_every: int = 250
    checkpoint_every: int = 250
    seed: int = 0
    device: str = "auto"


FAMILIES: Mapping[str, Mapping[str, Any]] = {
    MINI.key: {"targets": "attention+conv", "steps": 1500, "batch": 8, "learning_rate": 1e-3},
    SD1.key: {"steps": 1500, "batch": 2, "learning_rate": 1e-4},
    SD2.key: {"steps": 1500, "batch": 2, "learning_rate": 1e-4},
    SDXL.key: {"steps": 2000, "batch": 1, "learning_rate": 1e-4, "gradient_checkpointing": True},
}
"""What differs from the defaults above. mini's hold for all models whose text features are narrower than CLIP's."""

SINGLE: Mapping[str, Any] = {"crop": "scales", "flip": True, "steps": 500}
"""What differs in a training on a single picture."""
B_LORA: Mapping[str, Any] = {
    "targets": "b-lora",
    "rank": 64,
    "steps": 1000,
    "batch": 1,
    "learning_rate": 5e-5,
    "rate_schedule": "constant",
    "warmup": 0,
    "loss": "plain",
}
"""The same where the base has the blocks of SDXL: the settings of "Implicit Style-Content Separation using B-LoRA",
ECCV 2024, and of its released code."""

RULES: Mapping[str, Rule] = {
    "rank": Rule(lambda x: 1 <= x <= 512, "between 1 and 512"),
    "alpha": ALPHA,
    "caption_dropout": MOMENT,
    "trigger_dropout": UNIT,
    "steps": STEPS,
    "batch": COUNT.at_most(1024),
    "learning_rate": FRACTION,
    "warmup": WARMUP,
    "weight_decay": UNIT,
    "clip_norm": POSITIVE.at_most(1_000_000),
    "min_snr_gamma": POSITIVE.at_most(1000),
    "samples_every": WARMUP,
    "checkpoint_every": WARMUP,
    "seed": SEED,
}


def family_of(width: int) -> str:
    """Return the family of defaults for a model whose text features are `width` wide."""
    known = family_of_text_width(width)
    if known is not None:
        return known.key
    return SD1.key if width >= SD1.text_width else MINI.key


def resolve(given: Mapping[str, Any], family: str, defaults: Mapping[str, Any] | None = None) -> StyleTrainingConfig:
    """Return the checked settings of a training: the user's, and the defaults of a family for the others.

    Args:
        given: fields of `StyleTrainingConfig` by name; `name` must be among them.
        family: a key of `FAMILIES`.
        defaults: those that win over the family's.

    Raises:
        ConfigError: an unknown setting, a wrong type, or a value out of range.
    """
    base = overlay(StyleTrainingConfig(name=""), FAMILIES[family])
    config = overlay(overlay(base, defaults or {}), given)
    if "alpha" not in given:
        config = overlay(config, {"alpha": float(config.rank)})
    return _check_training(overlay(config, {"trigger": config.trigger.strip() or _to_words(config.name)}))


def _check_training(config: StyleTrainingConfig) -> StyleTrainingConfig:
    """Return `config` if every value is in range, else raise `ConfigError`."""
    if NAME.fullmatch(config.name) is None:
        raise ConfigError(
            f"a style's name must begin with a letter or digit and hold up to 100 letters, digits, '.', '+', '_' or "
            f"'-', not {config.name!r}",
            hint="for example --name my-style",
        )
    check_texts({"trigger": config.trigger, "model": config.model})
    if config.buckets and config.crop != "centre":
        raise ConfigError(
            f"--buckets keeps whole pictures and cannot be combined with --crop {config.crop}",
            hint="leave one of them out",
        )
    check(config, RULES)
    if config.resolution:
        check(config, {"resolution": SHORT_SIDE})
    return config


def _to_words(name: str) -> str:
    """Return a name as words: `oil-painting` is "oil painting"."""
    return name.replace("-", " ").replace("_", " ").strip()
