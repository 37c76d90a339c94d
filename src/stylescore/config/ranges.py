"""The ranges that a configuration's numbers must lie in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import MethodConfig
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError

Rule = tuple[Callable[[float], bool], str]

POSITIVE: Rule = (lambda x: x > 0, "greater than 0")
NOT_NEGATIVE: Rule = (lambda x: x >= 0, "0 or more")
UNIT: Rule = (lambda x: 0 <= x <= 1, "between 0 and 1")
SHARE: Rule = (lambda x: 0 < x <= 1, "greater than 0 and at most 1")
MOMENT: Rule = (lambda x: 0 <= x < 1, "at least 0 and less than 1")
COUNT: Rule = (lambda x: x >= 1, "at least 1")
TIMESTEP: Rule = (lambda x: 3 <= x <= 999, "between 3 and 999")
SIGNED_STRENGTH: Rule = (lambda x: -4 <= x <= 4, "between -4 and 4")
SEED: Rule = (lambda x: 0 <= x < 2**63, "between 0 and 2^63 - 1")
TILE: Rule = (lambda x: x == 0 or 64 <= x <= 8192, "0 or between 64 and 8192")
SHORT_SIDE: Rule = (lambda x: 64 <= x <= 8192, "between 64 and 8192")

METHOD_RULES: Mapping[str, Rule] = {
    "iterations": COUNT,
    "guidance_scale": NOT_NEGATIVE,
    "style_strength": SIGNED_STRENGTH,
    "timesteps.t_min": TIMESTEP,
    "timesteps.t_max": TIMESTEP,
    "consistent_noise": UNIT,
    "relevance.strength": UNIT,
    "relevance.largest_strength": UNIT,
    "relevance.upper_quantile": SHARE,
    "relevance.timesteps": NOT_NEGATIVE,
    "spectrum.weight": NOT_NEGATIVE,
    "spectrum.period": COUNT,
    "spectrum.free_below": NOT_NEGATIVE,
    "spectrum.smallest_factor": UNIT,
    "spectrum.largest_factor": COUNT,
    "optimiser.lr": POSITIVE,
    "optimiser.weight_decay": NOT_NEGATIVE,
    "optimiser.beta1": MOMENT,
    "optimiser.beta2": MOMENT,
    "optimiser.warmup": NOT_NEGATIVE,
    "optimiser.warmup_fraction": UNIT,
    "optimiser.cosine_length": NOT_NEGATIVE,
    "fake.rank": COUNT,
    "fake.alpha": POSITIVE,
    "fake.lr": POSITIVE,
    "fake.guidance_scale": NOT_NEGATIVE,
    "fake.anchor": UNIT,
    "refine.factor": (lambda x: 1 <= x <= 8, "between 1 and 8"),
    "refine.iterations": COUNT,
    "refine.t_max": TIMESTEP,
    "fake.t_min": TIMESTEP,
    "fake.t_max": TIMESTEP,
}


def check(config: object, rules: Mapping[str, Rule], *, where: str = "") -> None:
    """Raise `ConfigError` for the first number outside its range; dotted names reach into parts."""
    for name, (holds, words) in rules.items():
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if value is None:
            continue
        if not abs(value) < math.inf:  # type: ignore[arg-type]
            raise ConfigError(f"{where}{name} must be a finite number, not {value!r}", hint=f"choose a value {words}")
        if not holds(value):  # type: ignore[arg-type]
            raise ConfigError(f"{where}{name} must be {words}, not {value!r}", hint=f"choose a value {words}")


def check_order(name: str, t_min: int, t_max: int) -> None:
    """Raise `ConfigError` unless the timestep range holds at least one point of the grid."""
    if t_max < t_min + 2:
        raise ConfigError(
            f"{name} needs t_max of at least t_min + 2, not t_min = {t_min!r} and t_max = {t_max!r}",
            hint="widen the range of timesteps",
        )


def check_prompt(name: str, template: str) -> None:
    """Raise `ConfigError` unless a prompt template can be filled in."""
    try:
        template.format(style="", caption="")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{name} must only use {{style}} and {{caption}}, not {template!r}",
            hint="write {{ and }} for literal braces",
        ) from error


def has_stray_bytes(text: str) -> bool:
    """Tell whether a text holds bytes that are no letters, as Python keeps them when it decodes a name."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def check_texts(texts: Mapping[str, str | None]) -> None:
    """Raise `ConfigError` for a text that cannot be written as UTF-8."""
    for name, text in texts.items():
        if text and has_stray_bytes(text):
            raise ConfigError(f"{name} must be Unicode text, not {text!r}", hint="write it in UTF-8")


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


def check_run(run: RunConfig) -> RunConfig:
    """Return `run` if all its numbers are in range, else raise `ConfigError`."""
    check(run, {"content": UNIT, "seed": SEED, "size": SHORT_SIDE})
    check_execution(run.execution)
    check_texts({"prompt": run.caption, "style_prompt": run.style_prompt, "preview_model": run.preview_model})
    check_method(run.method)
    if not run.styles:
        raise ConfigError("a run needs at least one style", hint="give --style NAME")
    for style in run.styles:
        check(style, {"weight": SIGNED_STRENGTH}, where="style ")
    return run
