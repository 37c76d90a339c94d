"""All settings of a generator's training, with presets; needs neither torch nor a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from stylescore.config.method import MethodConfig
from stylescore.config.ranges import (
    MOMENT,
    NOT_NEGATIVE,
    POSITIVE,
    SHORT_SIDE,
    WARMUP,
    Rule,
    check,
    check_method,
    check_run,
)
from stylescore.config.run import RunConfig
from stylescore.config.toml import check_choice, overlay
from stylescore.errors import ConfigError, did_you_mean
from stylescore.training.config import NAME
from stylescore_apply.networks import MOST_PASSES

FilePrecision = Literal["float16", "bfloat16", "float32"]
OptimiserName = Literal["muon", "adam"]
GENERATORS = ("mobile", "resnet9", "lora")
OPTIONS = ("width", "blocks", "rank", "timestep")
"""Settings that are options of a network, where they are not 0."""
PAIRS_T_MAX = 651
"""Largest timestep of the runs that make pairs, unless another one is stated."""
MATCHING_T_MIN = 501
"""Smallest timestep of the second phase where a run's are annealed, unless another one is stated."""
FAKE_WARMUP = 200
"""Steps of the fake score before the generator's first, unless so many are stated or few follow."""
CELL = 8
"""Pixels that a cell of the noise field spans."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """The pairs of photo and picture that the program makes for the regression.

    Attributes:
        count: number of pairs; 0 makes none, and the regression learns to return the photo.
        batch: photos that are stylized together.
        teacher_passes: how often a teacher is applied to make a pair, each time to its own last picture.
        teacher_strength: weight of a teacher's picture where it is mixed with the photo.
    """

    count: int = 600
    batch: int = 4
    teacher_passes: int = 1
    teacher_strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """First phase: the generator learns the pairs' pictures from photo and noise.

    Attributes:
        steps: at most; 0 leaves the phase out.
        batch: pictures per step, over all processes and accumulated parts.
        crop: side in pixels of the square crops of pairs; 0 is the training's size.
        flip: whether pairs are mirrored at random, for a network without noise.
        optimiser: muon or adam.
        learning_rate: peak of the optimiser's.
        pixel: weight of the mean absolute difference of pixels in [0, 1]; 0 computes none.
        perceptual: weight of the distance in the features of the base's denoising network; 0 computes none.
        perceptual_t: timestep at which the network sees the pictures.
        adversarial: weight of a critic's judgement, which is trained to tell the generator's pictures from the pairs':
            for sharp strokes where a distance alone draws their mean; 0 has no critic. The measure then chooses no
            weights, since it prefers the mean.
        texture: weight of the distance of textures, whatever their place, by Gram matrices of what the encoder and the
            denoising network see: for strokes that cannot be foreseen; 0 computes none.
    """

    steps: int = 4000
    batch: int = 8
    crop: int = 0
    flip: bool = False
    optimiser: OptimiserName = "muon"
    learning_rate: float = 2e-3
    pixel: float = 1.0
    perceptual: float = 1.0
    perceptual_t: int = 61
    adversarial: float = 0.0
    texture: float = 0.3


@dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Second phase: the generator's pictures are moved by the method's direction, on photos without pairs.

    Attributes:
        steps: at most; 0 leaves the phase out.
        batch: photos per step, over all processes and accumulated parts.
        optimiser: muon or adam.
        learning_rate: peak of the optimiser's.
        fake_steps: training steps of the fake score for each step of the generator.
        fake_warmup: training steps of the fake score before the generator's first one, where the method has one; `None`
            takes 200, or as many as `steps` where these are fewer.
        regression: weight of the first phase's loss on pairs, which is kept beside the direction.
        as_applied: whether the pictures that are moved are those that the file asks for, after its passes and mixed by
            its strength, through the last pass; else those of one pass.
        method: its constants.
    """

    steps: int = 1000
    batch: int = 8
    optimiser: OptimiserName = "adam"
    learning_rate: float = 1e-4
    fake_steps: int = 5
    fake_warmup: int | None = None
    regression: float = 0.0
    as_applied: bool = False
    method: MethodConfig = field(default_factory=MethodConfig)


@dataclass(frozen=True, kw_only=True)
class GeneratorTrainingConfig:
    """A whole training, without its photos.

    Attributes:
        name: of the generator, and of its file and folder.
        preset: where the numbers come from, for the record only.
        network: mobile or resnet9; lora is the base's own denoising network, evaluated once with a trained LoRA.
        width: channels of its first layer; 0 is the network's own.
        blocks: number of its blocks; 0 is the network's own.
        rank: of a LoRA; 0 is 16.
        timestep: where the network with a LoRA is evaluated; 0 is 399.
        noise: whether the network takes the noise of a run as its second input.
        size: side in pixels of the square crops, and short side of the pairs; 0 is the model's native resolution.
        warmup: steps of linear warm-up of each phase.
        beta1: first Adam moment.
        clip_norm: largest norm of the gradient; a longer one is scaled down.
        ema: decay of the averaged weights, which are what is written.
        stability: weight, in both phases, of the mean absolute difference between the shifted picture of a photo and
            the picture of the shifted and slightly noised photo, for video that flickers less; 0 computes none.
        accumulate: parts that a process splits its batch into, one after another, for less memory.
        held_out: photos that are not trained on, by which the training is measured; at most a quarter of all.
        measure_every: steps between measures, and one at the end of each phase; 0 takes none.
        patience: a phase ends after so many measures without a better one; 0 goes on to its last step.
        workers: processes that load photos; 0 loads them in the training's own.
        file_dtype: precision of the written file.
        samples_every: steps between sample sheets; 0 for none.
        checkpoint_every: steps between saved states; 0 saves one only when the training is interrupted.
        keep: generators of the last saved states that are kept as files.
        passes: how often the file asks to be applied, each time to its own last picture; the second phase is measured
            so. Without a first phase it is what the starting generator states.
        strength: weight that the file asks for its picture, where that is mixed with the photo.
        licence: of the file, written into it.
        pairs: how pairs are made.
        regression: first phase.
        matching: second phase.
        run: model, styles, method and device, as for `stylize`; the pairs are made with it.
    """

    name: str
    preset: str = "standard"
    network: str = "mobile"
    width: int = 0
    blocks: int = 0
    rank: int = 0
    timestep: int = 0
    noise: bool = True
    size: int = 0
    warmup: int = 50
    beta1: float = 0.9
    clip_norm: float = 1.0
    ema: float = 0.999
    stability: float = 0.0
    accumulate: int = 1
    held_out: int = 16
    measure_every: int = 200
    patience: int = 5
    workers: int = 0
    file_dtype: FilePrecision = "float16"
    samples_every: int = 200
    checkpoint_every: int = 200
    keep: int = 3
    passes: int = 1
    strength: float = 1.0
    licence: str = ""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    regression: RegressionConfig = field(default_factory=RegressionConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    run: RunConfig

    @property
    def options(self) -> dict[str, int]:
        """The network's options that are not its own defaults."""
        stated = {name: getattr(self, name) for name in OPTIONS}
        return {name: value for name, value in stated.items() if value}

    @property
    def fake_warmup(self) -> int:
        """Steps in which only the fake score is trained; none where there is none, or nothing follows."""
        matching = self.matching
        if not matching.steps or not matching.method.has_fake_score:
            return 0
        return min(FAKE_WARMUP, matching.steps) if matching.fake_warmup is None else matching.fake_warmup

    @property
    def lengths(self) -> tuple[int, int, int]:
        """Steps of each phase, at most."""
        return (self.regression.steps, self.fake_warmup, self.matching.steps)

    @property
    def total(self) -> int:
        """Steps of all phases, at most."""
        return sum(self.lengths)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "draft": {
        "pairs": {"count": 120},
        "regression": {"steps": 600, "batch": 4},
        "matching": {"steps": 0},
        "measure_every": 100,
        "samples_every": 100,
        "checkpoint_every": 100,
    },
    "standard": {},
    "paper": {
        "network": "resnet9",
        "noise": False,
        "beta1": 0.5,
        "pairs": {"count": 0},
        "regression": {"steps": 500, "optimiser": "adam", "learning_rate": 2e-4, "perceptual": 0.0, "texture": 0.0},
        "matching": {"steps": 5000, "learning_rate": 2e-4, "fake_steps": 1, "fake_warmup": 0},
    },
}
"""What differs from the defaults above."""
FOR_NETWORK: Mapping[str, Mapping[str, Any]] = {
    "lora": {"regression": {"optimiser": "adam", "learning_rate": 3e-4, "perceptual": 0.1, "texture": 2.0}},
}
"""What differs for a network; a preset goes before it."""

RULES: Mapping[str, Rule] = {
    "width": NOT_NEGATIVE.at_most(128),
    "blocks": NOT_NEGATIVE.at_most(32),
    "rank": NOT_NEGATIVE.at_most(512),
    "timestep": NOT_NEGATIVE.at_most(999),
    "warmup": WARMUP,
    "beta1": MOMENT,
    "clip_norm": POSITIVE.at_most(1_000_000),
    "ema": MOMENT,
    "stability": NOT_NEGATIVE.at_most(1000),
    "accumulate": Rule(lambda x: 1 <= x <= 1024, "between 1 and 1024"),
    "held_out": Rule(lambda x: 1 <= x <= 4096, "between 1 and 4096"),
    "measure_every": WARMUP,
    "patience": WARMUP,
    "workers": NOT_NEGATIVE.at_most(64),
    "samples_every": WARMUP,
    "checkpoint_every": WARMUP,
    "keep": NOT_NEGATIVE.at_most(1000),
    "passes": Rule(lambda x: 1 <= x <= MOST_PASSES, f"between 1 and {MOST_PASSES}"),
    "strength": POSITIVE.at_most(1),
    "pairs.count": Rule(lambda x: x == 0 or x >= 4, "0 or at least 4").at_most(1_000_000),
    "pairs.batch": Rule(lambda x: 1 <= x <= 1024, "between 1 and 1024"),
    "pairs.teacher_passes": Rule(lambda x: 1 <= x <= MOST_PASSES, f"between 1 and {MOST_PASSES}"),
    "pairs.teacher_strength": POSITIVE.at_most(1),
    "regression.steps": WARMUP,
    "regression.batch": Rule(lambda x: 1 <= x <= 1024, "between 1 and 1024"),
    "regression.learning_rate": POSITIVE.at_most(1),
    "regression.pixel": NOT_NEGATIVE.at_most(1000),
    "regression.perceptual": NOT_NEGATIVE.at_most(1000),
    "regression.adversarial": NOT_NEGATIVE.at_most(1000),
    "regression.texture": NOT_NEGATIVE.at_most(1000),
    "regression.perceptual_t": Rule(lambda x: 3 <= x <= 999, "between 3 and 999"),
    "matching.steps": WARMUP,
    "matching.batch": Rule(lambda x: 1 <= x <= 1024, "between 1 and 1024"),
    "matching.learning_rate": POSITIVE.at_most(1),
    "matching.fake_steps": Rule(lambda x: 1 <= x <= 100, "between 1 and 100"),
    "matching.fake_warmup": WARMUP,
    "matching.regression": NOT_NEGATIVE.at_most(1000),
}


def resolve(given: Mapping[str, Any], run: RunConfig, preset: str = "standard") -> GeneratorTrainingConfig:
    """Return the checked settings of a training: the user's, and a preset's for the others.

    Args:
        given: fields of `GeneratorTrainingConfig` by name, of `run` the constants of its method only; `name` must be
            among them.
        run: model, styles and method.
        preset: a key of `PRESETS`.

    Raises:
        ConfigError: an unknown preset or setting, a wrong type, or a value out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"a generator's training has no preset {preset!r}", hint=did_you_mean(preset, PRESETS))
    stated = given.get("run", {}).get("method", {})
    whole = overlay(run.method, stated, where="run.method.")
    matching = MatchingConfig(method=matching_method(whole, keep_t_min="t_min" in stated.get("timesteps", {})))
    base = GeneratorTrainingConfig(name="", preset=preset, run=pairs_run(run), matching=matching)
    network = given.get("network", overlay(base, PRESETS[preset]).network)
    own = FOR_NETWORK.get(network, {}) if isinstance(network, str) else {}
    chosen = overlay(overlay(base, own), PRESETS[preset])
    return check_training(overlay(replace(chosen, noise=chosen.noise or network == "lora"), given))


def pairs_run(run: RunConfig) -> RunConfig:
    """Return a run whose noise is fixed for the whole of it, at one size, so that its seed tells all its noise.

    It begins at a smaller timestep: at the largest ones one fixed noise decides what the picture shows.
    """
    method = run.method
    largest = max(min(method.timesteps.t_max, PAIRS_T_MAX), method.timesteps.t_min + 2)
    return replace(
        run,
        method=replace(
            method,
            consistent_noise=1.0,
            timesteps=replace(method.timesteps, t_max=largest),
            fake=replace(method.fake, shared=False),
            refine=replace(method.refine, factor=1.0),
        ),
    )


def matching_method(method: MethodConfig, *, keep_t_min: bool = False) -> MethodConfig:
    """Return a method's constants for a network instead of a picture.

    One fake score is shared by all photos and sees the full range of timesteps, each photo draws a timestep and noise
    of its own, and the direction is measured in clean latents over each picture's distance to the style's prediction.
    In place of annealed timesteps, which end with small ones, they are uniform from `MATCHING_T_MIN` on: at small ones
    what the fake score has not learned yet outweighs the style, and pictures get grain.

    Args:
        method: the run's constants.
        keep_t_min: the smallest timestep is that of the run, as one that the user has stated.
    """
    timesteps = method.timesteps
    if timesteps.sampler == "annealed":
        raised = min(max(timesteps.t_min, MATCHING_T_MIN), timesteps.t_max - 2)
        smallest = timesteps.t_min if keep_t_min else raised
        timesteps = replace(timesteps, sampler="uniform", t_min=smallest)
    fake = replace(
        method.fake, shared=False, scope="batch", sampler="uniform", lr=2e-4, t_min=21, t_max=979, guidance_scale=1.0
    )
    return replace(
        method,
        weight="normalised",
        consistent_noise=0.0,
        timesteps=timesteps,
        relevance=replace(method.relevance, timesteps=0),
        refine=replace(method.refine, factor=1.0),
        fake=fake,
    )


def check_training(config: GeneratorTrainingConfig) -> GeneratorTrainingConfig:
    """Return `config` if every value is in range, else raise `ConfigError`."""
    if NAME.fullmatch(config.name) is None:
        raise ConfigError(
            f"a generator's name must begin with a letter or digit and hold up to 100 letters, digits, '.', '+', '_' "
            f"or '-', not {config.name!r}",
            hint="for example --name van-gogh",
        )
    check_choice(config.network, GENERATORS, "network")
    for name, phase in (("regression", config.regression), ("matching", config.matching)):
        check_choice(phase.optimiser, get_args(OptimiserName), f"{name}.optimiser")
    check(config, RULES)
    check_run(config.run)
    check_method(config.matching.method)
    check_sides(config)
    _check_method(config)
    if config.network == "lora" and not config.noise:
        raise ConfigError("the network lora takes noise: it denoises", hint="leave out --set noise=false")
    if config.regression.flip and config.noise:
        raise ConfigError(
            "regression.flip needs a network without noise: what noise a mirrored pair would have is not known",
            hint="leave it out, or add --set noise=false",
        )
    if config.total == 0:
        raise ConfigError("a training needs steps in one of its phases", hint="set regression.steps or matching.steps")
    return config


def check_sides(config: GeneratorTrainingConfig, multiple: int = CELL, whose: str = "") -> None:
    """Raise `ConfigError` for a size, or a side of crops, that is out of range or no multiple of `multiple`.

    Args:
        config: of the training; sides of 0 are not stated yet.
        multiple: in pixels.
        whose: words after it.
    """
    crop = config.regression.crop
    for name, side, option in (("size", config.size, "--size "), ("regression.crop", crop, "--set regression.crop=")):
        if not side:
            continue
        check(config, {name: SHORT_SIDE})
        if side % multiple:
            nearest = max(1, side // multiple) * multiple
            raise ConfigError(
                f"{name} must be a multiple of {multiple}{whose}, not {side!r}", hint=f"use {option}{nearest}"
            )
    if config.size and crop > config.size:
        raise ConfigError(
            f"regression.crop must be at most the size, {config.size}, not {crop!r}", hint="leave it out for the size"
        )


def _check_method(config: GeneratorTrainingConfig) -> None:
    """Raise `ConfigError` for a method, or constants of the runs, that the training cannot use."""
    for name, method in (("run", config.run.method), ("matching", config.matching.method)):
        if method.is_sampling or method.is_transfer:
            raise ConfigError(
                f"{name}.method.method must be an objective for a generator, which {method.method} is not",
                hint="use --method sms",
            )
    needed = {
        "run.method.refine.factor": (config.run.method.refine.factor, 1.0),
        "matching.method.relevance.timesteps": (config.matching.method.relevance.timesteps, 0),
        "matching.method.fake.scope": (config.matching.method.fake.scope, "batch"),
        "matching.method.fake.shared": (config.matching.method.fake.shared, False),
    }
    for name, (value, wanted) in needed.items():
        if value != wanted:
            raise ConfigError(f"{name} must be {wanted!r} for a generator, not {value!r}", hint=f"leave {name} out")
