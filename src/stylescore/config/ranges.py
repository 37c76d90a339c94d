"""The ranges that a configuration's numbers must lie in."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real

from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import ONE_PICTURE, MethodConfig
from stylescore.config.output import OutputConfig
from stylescore.config.run import EmbeddingChoice, RunConfig
from stylescore.errors import ConfigError, quote

LARGEST_COUNT = 1_000_000
"""Most iterations or steps of a run; the largest one that was ever of use had a few thousand."""
LONGEST_TEXT = 10_000
"""Longest prompt in letters; text encoders truncate far shorter ones."""
MOST_STYLES = 32
_UNREAD = re.compile(r"<hypernet:[^<>]+>|\bembedding:([^\s,:()]+)|(?<!\S)(BREAK)(?!\S)")
"""What other programs read in a prompt, and a text encoder would read as letters."""
_LORA_TAG = re.compile(r"<(?:lora|lyco|lycoris):([^:<>]+)(?::([^:<>]*))?[^<>]*>", re.I)
_MACHINE = re.compile(r"[A-Za-z0-9._:%-]{1,253}")
_MODEL_NAMES = ("preview_model", "vae", "text_encoders", "control_model")
LONGEST_TOKEN = 100
"""Longest word, in letters, that stands for a textual inversion embedding."""


@dataclass(frozen=True)
class Rule:
    """The range of one number.

    Attributes:
        holds: whether a number is in range, apart from `largest`.
        words: how messages state what `holds` checks.
        largest: a number above it is refused too.
    """

    holds: Callable[[float], bool]
    words: str
    largest: float = math.inf

    def at_most(self, largest: float) -> Rule:
        """Return this rule with a largest number."""
        return replace(self, largest=largest)

    def broken_by(self, value: float) -> str | None:
        """Return the range in words if `value` is outside it, else `None`."""
        if not self.holds(value):
            return self.words
        return f"at most {self.largest:,}" if value > self.largest else None


POSITIVE = Rule(lambda x: x > 0, "greater than 0")
NOT_NEGATIVE = Rule(lambda x: x >= 0, "0 or more")
UNIT = Rule(lambda x: 0 <= x <= 1, "between 0 and 1")
FRACTION = Rule(lambda x: 0 < x <= 1, "greater than 0 and at most 1")
MOMENT = Rule(lambda x: 0 <= x < 1, "at least 0 and less than 1")
COUNT = Rule(lambda x: x >= 1, "at least 1")
STEPS = COUNT.at_most(LARGEST_COUNT)
WARMUP = NOT_NEGATIVE.at_most(LARGEST_COUNT)
GUIDANCE = NOT_NEGATIVE.at_most(1000)
ALPHA = POSITIVE.at_most(65_536)
TIMESTEP = Rule(lambda x: 3 <= x <= 999, "between 3 and 999")
SIGNED_STRENGTH = Rule(lambda x: -4 <= x <= 4, "between -4 and 4")
SEED = Rule(lambda x: 0 <= x < 2**63, "between 0 and 2^63 - 1")
TILE = Rule(lambda x: x == 0 or 64 <= x <= 8192, "0 or between 64 and 8192")
QUALITY = Rule(lambda x: 1 <= x <= 100, "between 1 and 100")
FEATHER = NOT_NEGATIVE.at_most(4096)
CLIP_LAYER = COUNT.at_most(32)
CONTROL_SCALE = NOT_NEGATIVE.at_most(4)
SHORT_SIDE = Rule(lambda x: 64 <= x <= 8192, "between 64 and 8192")

METHOD_RULES: Mapping[str, Rule] = {
    "iterations": STEPS,
    "guidance_scale": GUIDANCE,
    "style_strength": SIGNED_STRENGTH,
    "text_strength": SIGNED_STRENGTH,
    "timesteps.t_min": TIMESTEP,
    "timesteps.t_max": TIMESTEP,
    "consistent_noise": UNIT,
    "relevance.strength": UNIT,
    "relevance.largest_strength": UNIT,
    "relevance.upper_quantile": FRACTION,
    "relevance.timesteps": NOT_NEGATIVE.at_most(999),
    "spectrum.weight": NOT_NEGATIVE.at_most(1000),
    "spectrum.period": COUNT.at_most(10_000),
    "spectrum.free_below": NOT_NEGATIVE.at_most(16_384),
    "spectrum.smallest_factor": UNIT,
    "spectrum.largest_factor": COUNT.at_most(10_000),
    "optimiser.lr": POSITIVE.at_most(1000),
    "optimiser.weight_decay": NOT_NEGATIVE.at_most(100),
    "optimiser.beta1": MOMENT,
    "optimiser.beta2": MOMENT,
    "optimiser.warmup": WARMUP,
    "optimiser.warmup_fraction": UNIT,
    "optimiser.cosine_length": NOT_NEGATIVE.at_most(1000),
    "fake.rank": COUNT.at_most(4096),
    "fake.alpha": ALPHA,
    "fake.lr": POSITIVE.at_most(10),
    "fake.guidance_scale": GUIDANCE,
    "fake.anchor": UNIT,
    "refine.factor": Rule(lambda x: 1 <= x <= 8, "between 1 and 8"),
    "refine.iterations": STEPS,
    "refine.t_max": TIMESTEP,
    "sdedit.strength": UNIT,
    "styleid.strength": UNIT,
    "styleid.gamma": UNIT,
    "freestyle.strength": UNIT,
    "freestyle.backbone": NOT_NEGATIVE.at_most(100),
    "freestyle.skip": NOT_NEGATIVE.at_most(100),
    "styleid.temperature": POSITIVE.at_most(100),
    "instantstyle.strength": UNIT,
    "instantstyle.scale": NOT_NEGATIVE.at_most(4),
    "instantstyle.content_scale": NOT_NEGATIVE.at_most(4),
    "gatys.content_weight": NOT_NEGATIVE.at_most(1_000_000_000),
    "gatys.style_weight": NOT_NEGATIVE.at_most(1_000_000_000),
    "adain.strength": UNIT,
    "ghiasi.strength": UNIT,
    "fake.t_min": TIMESTEP,
    "fake.t_max": TIMESTEP,
}


def check(config: object, rules: Mapping[str, Rule], *, where: str = "") -> None:
    """Raise `ConfigError` for the first number outside its range; dotted names reach into parts."""
    for name, rule in rules.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if value is not None:
            check_number(f"{where}{name}", value, rule)


def check_number(name: str, value: object, rule: Rule) -> None:
    """Raise `ConfigError` for a value that is no finite number, or out of its range."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number, not {quote(value)}", hint=f"choose a value {rule.words}")
    number: float = value  # type: ignore[assignment]
    if not abs(number) < math.inf:
        raise ConfigError(f"{name} must be a finite number, not {value!r}", hint=f"choose a value {rule.words}")
    broken = rule.broken_by(number)
    if broken is not None:
        raise ConfigError(f"{name} must be {broken}, not {quote(value)}", hint=f"choose a value {broken}")


def check_order(name: str, t_min: int, t_max: int) -> None:
    """Raise `ConfigError` unless the timestep range holds at least one point of the grid."""
    if t_max < t_min + 2:
        raise ConfigError(
            f"{name} needs t_max of at least t_min + 2, not t_min = {t_min!r} and t_max = {t_max!r}",
            hint="widen the range of timesteps",
        )


def check_prompt(name: str, template: str) -> None:
    """Raise `ConfigError` unless a prompt template can be filled in."""
    check_texts({name: template})
    try:
        fields = [field for field in string.Formatter().parse(template) if field[1] is not None]
    except ValueError:
        fields = [("", "", "", None)]
    if any(field not in ("style", "caption") or spec or conversion for _, field, spec, conversion in fields):
        raise ConfigError(
            f"{name} must only use {{style}} and {{caption}}, not {quote(template)}",
            hint="write {{ and }} for literal braces",
        )


def has_stray_bytes(text: str) -> bool:
    """Tell whether a text holds bytes that are no letters, as Python keeps them when it decodes a name."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def check_texts(texts: Mapping[str, str | None]) -> None:
    """Raise `ConfigError` for a text that cannot be written as UTF-8, or is too long to be a prompt or a name."""
    for name, text in texts.items():
        if text and len(text) > LONGEST_TEXT:
            raise ConfigError(
                f"{name} must have at most {LONGEST_TEXT:,} letters, not {len(text):,}", hint="shorten it"
            )
        if text and has_stray_bytes(text):
            raise ConfigError(f"{name} must be Unicode text, not {quote(text)}", hint="write it in UTF-8")


def check_port(port: int) -> None:
    """Raise `ConfigError` unless a server can have this port; 0 takes a free one."""
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port must be between 0 and 65535, not {port}", hint="0 takes a free one")


def check_machine(option: str, name: str) -> None:
    """Raise `ConfigError` unless a text can be the name or number of a machine, which stands in links."""
    if _MACHINE.fullmatch(name) is None:
        raise ConfigError(
            f"{option} must be the name or number of a machine, not {quote(name)}", hint="for example 192.168.1.5"
        )


def check_method(method: MethodConfig) -> MethodConfig:
    """Return `method` if all its numbers are in range, else raise `ConfigError`."""
    check(method, METHOD_RULES)
    check_order("timesteps", method.timesteps.t_min, method.timesteps.t_max)
    if method.refine.factor > 1:
        check_order("refine", method.timesteps.t_min, method.refine.t_max)
    check_order("fake", method.fake.t_min, method.fake.t_max)
    if method.fake.shared and method.fake.guidance_scale != 1:
        raise ConfigError(
            f"fake.shared needs fake.guidance_scale of 1, not {method.fake.guidance_scale!r}",
            hint="training makes no unconditional prediction: set fake.guidance_scale=1 or fake.shared=false",
        )
    if method.fake.shared and method.consistent_noise > 0:
        raise ConfigError(
            f"fake.shared needs consistent_noise of 0, not {method.consistent_noise!r}",
            hint="the fake score would learn the run's noise by heart: set fake.shared=false or consistent_noise=0",
        )
    if method.text_strength is not None and not method.text_encoder_lora:
        raise ConfigError(
            f"text_strength {method.text_strength!r} has no effect where text_encoder_lora is false",
            hint="leave it out, or set text_encoder_lora=true",
        )
    check_prompt("target_prompt", method.target_prompt)
    check_prompt("relevance.edit_prompt", method.relevance.edit_prompt)
    return method


def check_execution(execution: ExecutionConfig) -> None:
    """Raise `ConfigError` for a tile out of range, or for speed that takes the memory which is to be saved."""
    check(execution, {"tile": TILE})
    if not execution.saves_memory:
        return
    for option, value, costly in (
        ("--compile", execution.compile, execution.compile != "off"),
        ("--style-weights", execution.style_weights, execution.style_weights == "merged"),
    ):
        if costly:
            raise ConfigError(
                f"{option} {value} and --memory {execution.memory} cannot be combined", hint="leave one of them out"
            )


def check_output(output: OutputConfig) -> OutputConfig:
    """Return `output` if its numbers are in range, else raise `ConfigError`."""
    check(output, {"quality": QUALITY})
    return output


def _refuse_commands(name: str, prompt: str) -> None:
    """Raise `ConfigError` for a prompt with a LoRA, an embedding or a command, as other programs read them."""
    tag = _LORA_TAG.search(prompt)
    if tag is not None:
        raise ConfigError(
            f"{name} must be text for the text encoder, which cannot load {quote(tag[0])}",
            hint=f"delete it from the prompt and give --style {tag[1]}={tag[2] or '1'}",
        )
    other = _UNREAD.search(prompt)
    if other is not None and not (other[2] and prompt.isupper()):
        instead = f" and give --embedding {other[1]}=FILE, with {other[1]} in the prompt" if other[1] else ""
        raise ConfigError(
            f"{name} must be text for the text encoder, which would read {quote(other[0])} as letters",
            hint=f"delete it from the prompt{instead}{' or write it in small letters' if other[2] else ''}",
        )


def check_run(run: RunConfig) -> RunConfig:
    """Return `run` if all its numbers are in range, else raise `ConfigError`."""
    check(
        run,
        {
            "content": UNIT,
            "seed": SEED,
            "size": SHORT_SIDE,
            "keep_colours": UNIT,
            "mask_feather": FEATHER,
            "clip_skip": CLIP_LAYER,
            "control_scale": CONTROL_SCALE,
        },
    )
    check_execution(run.execution)
    prompts = {"prompt": run.caption, "style_prompt": run.style_prompt, "negative_prompt": run.negative_prompt}
    check_texts({**prompts, **{name: getattr(run, name) for name in _MODEL_NAMES}})
    for name, prompt in prompts.items():
        _refuse_commands(name, prompt or "")
    check_method(run.method)
    _check_control(run)
    if run.negative_prompt and not run.method.is_guided:
        raise ConfigError(
            "negative_prompt has no effect where guidance_scale is 1",
            hint="give --set guidance_scale=4.5, or leave it out",
        )
    _check_style_source(run)
    _check_weights(run)
    if run.method.is_transfer:
        _refuse_model_options(run)
    if len(run.styles) > MOST_STYLES:
        raise ConfigError(f"a run has at most {MOST_STYLES} styles, not {len(run.styles)}", hint="leave some out")
    for style in run.styles:
        check(style, {"weight": SIGNED_STRENGTH}, where="style ")
    _check_embeddings(run.embeddings)
    return run


def _check_style_source(run: RunConfig) -> None:
    """Raise `ConfigError` unless the style comes from where the method takes it: adapters, or one picture."""
    check_texts({"style_image": run.style_image})
    if not run.method.takes_style_picture:
        if run.style_image is not None:
            raise ConfigError(
                f"style_image is of the methods {', '.join(ONE_PICTURE)}, not of {run.method.method}",
                hint="give --method styleid, or --style in place of --style-image",
            )
        if not run.styles:
            raise ConfigError("a run needs at least one style", hint="give --style NAME")
        return
    if run.style_image is None:
        raise ConfigError(
            f"{run.method.method} needs a picture in the style, style_image",
            hint="give --style-image FILE, which stylize has, or another --method",
        )
    if run.styles or run.style_model is not None:
        raise ConfigError(
            f"{run.method.method} takes its style from a picture alone: a style adapter has no effect",
            hint="leave out --style and --style-model",
        )


def _check_weights(run: RunConfig) -> None:
    """Raise `ConfigError` for weights of a network that the method does not have, or that are given twice."""
    names = [choice.network for choice in run.weights]
    for choice in run.weights:
        check_texts({"weights": choice.file})
        if choice.network not in run.method.weights:
            known = ", ".join(run.method.weights)
            hint = f"its networks are {known}" if known else "leave out --weights"
            raise ConfigError(f"{run.method.method} has no network {quote(choice.network)}", hint=hint)
        if names.count(choice.network) > 1:
            raise ConfigError(f"--weights {choice.network} is given twice", hint="leave one of them out")


def _refuse_model_options(run: RunConfig) -> None:
    """Raise `ConfigError` for an option of diffusion models, which the method does not load."""
    execution = run.execution
    given = {
        "vae": run.vae,
        "text_encoders": run.text_encoders,
        "preview_model": run.preview_model,
        "clip_skip": run.clip_skip,
        "prediction": run.prediction,
        "embeddings": run.embeddings,
        "dtype": execution.dtype not in ("auto", "float32"),
        "memory": execution.saves_memory,
        "compile": execution.compile != "off",
        "style_weights": execution.style_weights == "merged",
        "tile": execution.tile,
    }
    name = next((name for name, value in given.items() if value), None)
    if name is not None:
        raise ConfigError(f"{run.method.method} loads no diffusion model: {name} has no effect", hint="leave it out")


def _check_control(run: RunConfig) -> None:
    """Raise `ConfigError` for a ControlNet that has no effect, or options of one that is not asked for."""
    if run.control is None:
        if run.control_model is not None or run.control_scale != 1:
            raise ConfigError("control_model and control_scale need control", hint="give --control edges or tile")
    elif not run.method.takes_control:
        raise ConfigError(
            f"control is of the methods sdedit and instantstyle, not of {run.method.method}",
            hint="give --method sdedit, or leave --control out",
        )


def _check_embeddings(embeddings: Sequence[EmbeddingChoice]) -> None:
    """Raise `ConfigError` for too many embeddings, or a token that cannot stand in a prompt."""
    if len(embeddings) > MOST_STYLES:
        raise ConfigError(f"a run has at most {MOST_STYLES} embeddings, not {len(embeddings)}", hint="leave some out")
    for choice in embeddings:
        check_texts({"an embedding's file": choice.file})
        token = choice.token
        if not token.isprintable() or token != token.strip() or not 0 < len(token) <= LONGEST_TOKEN:
            raise ConfigError(
                f"an embedding's name must be 1 to {LONGEST_TOKEN} letters without spaces around, not {quote(token)}",
                hint="give --embedding NAME=FILE, where NAME is the word for your prompts",
            )
