"""Bad command lines: every option with wrong kinds of value, in wrong places, with wrong files.

The options are read from the program itself, so that a new one is tried too. A line holds if it ends with a documented
exit code, one line `error:` and one line `hint:`, nothing on standard output, and no file made or changed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args, get_type_hints

from attempts import CRASH, SECONDS, Outcome, Tally, attempt
from other_lines import LINES, LONG, RAW, VALUES, whole_lines
from place import LORA, MODELS, PICTURES, PRESETS, RUNS, STYLES, TABLES, TINY, load_module
from typer.models import OptionInfo

HUGE = "9" * 5000
INTEGERS = ("many", "1.5", "", " ", "1e9", "0x10", "-99999999", "99999999999999999999999", HUGE, "nan", "1,000", "½")
FLOATS = ("much", "", " ", "nan", "inf", "-inf", "1e400", "0,5", "50%", "1/2", "-1e30", "1e30", HUGE)
CHOICES = ("", "nonsense", "AUTO ", "a|b", RAW, LONG)
NUMBERS = ("many", "nan", "inf", "-inf", "1e300", "-1e300", HUGE, "[1]", "{a=1}", "true", "[" * 3000, "0,5", "'3'", "")
INTEGER_SETTINGS = (
    *("iterations", "timesteps.t_min", "timesteps.t_max", "relevance.timesteps", "spectrum.period"),
    *("spectrum.free_below", "optimiser.warmup", "refine.iterations", "refine.t_max", "fake.rank", "fake.t_min"),
)
FLOAT_SETTINGS = (
    *("guidance_scale", "consistent_noise", "style_strength", "relevance.strength", "relevance.upper_quantile"),
    *("spectrum.weight", "optimiser.lr", "optimiser.weight_decay", "optimiser.beta1", "optimiser.cosine_length"),
    *("fake.alpha", "fake.lr", "fake.guidance_scale", "fake.anchor"),
)
CHOICE_SETTINGS = (
    *("weight", "timesteps.sampler", "relevance.reduction", "spectrum.distance", "optimiser.name", "fake.scope"),
)
SETTINGS = (
    *("", "=", "=3", "iterations", "iteratoins=3", "fake=3", "fake.rank.x=3", "fake.targets=3", "fake.targets=[]"),
    *("fake.targets=['nothing']", "fake.targets=[1]", "relevance.timesteps=1000000000", "fake.rank=1000000000"),
    *("optimiser.lr=1e300", "target_prompt={style:>99999999999}", "target_prompt={style.__class__}"),
    *("target_prompt={", "target_prompt={0}", "target_prompt=3", "relevance.edit_prompt={nobody}", f"{'a.' * 3000}b=1"),
    *("text_encoder_lora=maybe", "text_encoder_lora=1", "method=cook", "iterations=1979-05-27", "\0=1", f"{RAW}=1"),
    *("timesteps.t_min=400\ntimesteps.t_max=300", "timesteps.t_min=499", "timesteps={}x", "fake.shared=3", "weight=3"),
)
WRONG_FILES = (
    "nowhere",
    "no/such/file.safetensors",
    "",
    " ",
    RAW,
    LONG,
    "/dev/zero",
    "/dev/null",
    "photo.png/below",
    ".",
)
PLACES = ("photo.png", "photo.png/below", "/dev/null/out", "/proc/out", LONG, f"{RAW}/out", "/dev/full/out")


def _bad(*tables: Any) -> list[str]:
    """Return the wrong files of some kinds, as the command line names them."""
    return [f"bad/{name}" for name in chain(*tables)]


def _values(option: str) -> Sequence[str]:
    """Return wrong values of an option that names something."""
    known = load_module("cli/test_errors.py").BAD_FILES
    adapters = [name for name in known if name.endswith((".safetensors", ".pt", ".ckpt"))]
    weights = [f"{LORA}={weight}" for weight in ("lots", "nan", "inf", "-inf", "1e400", "9", "", "0,5")]
    styles = [*WRONG_FILES, *_bad(STYLES, adapters), "somebody/style", "=0.5", "photo.png", "pictures"]
    models = [*WRONG_FILES, *_bad(MODELS), str(LORA), "photo.png", "minni", "somebody/model", "bad/model.ckpt"]
    return {
        "--style": [*styles, *weights],
        "--from": [*styles, str(LORA)],
        "--model": models,
        "--style-model": models,
        "--preview-model": [*WRONG_FILES, str(LORA), "photo.png", "bad/empty model", "bad/no unet"],
        "--control-model": [*WRONG_FILES, str(LORA), "photo.png", "pictures"],
        "--style-image": [*WRONG_FILES, str(LORA), "photo.png", "pictures"],
        "--weights": [*WRONG_FILES, "vgg19", "=x", "vgg19=", "vgg19=nowhere", "vgg20=photo.png", f"hed={LORA}", RAW],
        "--preset": [*WRONG_FILES, *_bad(PRESETS), "bad/broken.toml", "bad/typo.toml", "balance", "photo.png"],
        "--output": PLACES,
        "--resume": [*WRONG_FILES, *_bad(RUNS), "photo.png", "pictures"],
        "--captions": [*WRONG_FILES, *_bad(TABLES), "photo.png", "pictures"],
        "--device": [*CHOICES, "gpu", "cuda:99", "cpu:3", "cuda:-1", "cuda:x", "tpu"],
        "--dtype": [*CHOICES, "half", "int8", "fp32", "float16"],
        "--compile": [*CHOICES, "yes"],
        "--name": ["", " ", "a/b", "../up", ".hidden", RAW, LONG, "a b", "a=0.5", "watercolor", "-"],
        "--prompt": [RAW, LONG],
        "--style-prompt": [RAW, LONG],
        "--trigger": [RAW, LONG],
        "--caption": [RAW, LONG],
        "--set": SETTINGS,
    }.get(option, ())


def _settings() -> Iterator[str]:
    """Yield wrong values of the constants."""
    yield from (f"{name}={value}" for name in (*INTEGER_SETTINGS, *FLOAT_SETTINGS) for value in NUMBERS)
    yield from (f"{name}={value}" for name in INTEGER_SETTINGS for value in ("0.5", "-7", "99999999999999999999"))
    yield from (f"{name}={value}" for name in CHOICE_SETTINGS for value in ("nonsense", "3", "''", "[]", "true", "-1"))


@dataclass(frozen=True)
class Option:
    """An option of a command: its name, the type of its value, and how the help shows that value."""

    name: str
    kind: type
    metavar: str


def _exists(command: str) -> bool:
    """Return whether the version that is tried has a command."""
    from stylescore.cli import main

    return hasattr(main, command.replace("-", "_"))


def _options(command: str) -> Iterator[Option]:
    """Yield the options of a command, as its function declares them."""
    from stylescore.cli import main

    for name, hint in get_type_hints(getattr(main, command.replace("-", "_")), include_extras=True).items():
        if name == "return" or not isinstance(hint.__metadata__[0], OptionInfo):
            continue
        kind, declared = hint.__origin__, hint.__metadata__[0]
        kinds = [inner for inner in (kind, *get_args(kind)) if inner in (bool, int, float, str, Path)]
        names = (declared.default, *(declared.param_decls or ()))
        spellings = [text for text in names if isinstance(text, str) and text.startswith("--")]
        spelling = spellings[0].partition("/")[0] if spellings else f"--{name.replace('_', '-')}"
        yield Option(spelling, kinds[0] if kinds else str, declared.metavar or "")


BASES = {
    "stylize": (
        *("stylize", "photo.png", "--style", str(LORA), "--model", str(TINY), "--size", "64", "--iterations", "2"),
        *("--output", "out", "--quiet"),
    ),
    "train-style": (
        *("train-style", "pictures", "--name", "made", "--model", str(TINY), "--steps", "1", "--resolution", "64"),
        *("--batch", "1", "--samples-every", "0", "--device", "cpu", "--output", "out", "--quiet"),
    ),
}
ACCEPTED = {
    ("stylize", "--name"): ("a b", "a=0.5", "watercolor", "-"),  # of folders, not of a style
    ("train-style", "--model"): ("bad/three steps",),  # a training can do with few timesteps
}
"""Values that are wrong for another command's option of the same name alone."""
REPEATED = ("--style",)
"""Options that are added to those before, in place of which they are given here."""


def _base(command: str, option: str) -> list[str]:
    """Return a line that works, without an option that would be added to, and with what makes an option matter."""
    words = [*BASES[command], *({"--preview-model": ["--gif"]}.get(option, []))]
    if option in REPEATED:
        place = words.index(option)
        del words[place : place + 2]
    return words


def _option_lines(command: str, given: Option) -> Iterator[list[str]]:
    """Yield lines in which one option is wrong."""
    option = given.name
    base = _base(command, option)
    yield [*base, f"{option[:-2]}{option[-1]}{option[-2]}x", "1"]
    if given.kind is bool:
        yield from ([*base, f"{option}={value}"] for value in ("yes", "1", ""))
        return
    yield [*base, option]
    choices = CHOICES if "|" in given.metavar and not _values(option) else ()
    accepted = ACCEPTED.get((command, option), ())
    for value in (*{int: INTEGERS, float: FLOATS}.get(given.kind, ()), *_values(option), *choices):
        if value not in accepted:
            yield [*base, option, value]
    if command == "stylize" and option == "--set":
        yield from ([*base, option, value] for value in _settings())


def _other_option_lines(command: str, given: Option) -> Iterator[list[str]]:
    """Yield lines of a command besides those of `BASES` in which one option is wrong."""
    base, option = list(LINES[command]), given.name
    if option in REPEATED and option in base:
        place = base.index(option)
        del base[place : place + 2]
    yield [*base, f"{option[:-2]}{option[-1]}{option[-2]}x", "1"]
    if given.kind is bool:
        yield from ([*base, f"{option}={value}"] for value in ("yes", "1", ""))
        return
    yield [*base, option]
    for value in (*{int: INTEGERS, float: FLOATS}.get(given.kind, ()), *VALUES.get((command, option), ())):
        yield [*base, option, value]


def _resume_lines(command: str, given: Option) -> Iterator[list[str]]:
    """Yield a line in which an option stands beside `--resume`."""
    if given.name not in ("--resume", "--json", "--quiet"):
        value = [] if given.kind is bool else ["1"]
        yield [command, "--resume", "bad/run of nothing", given.name, *value]


def _photo_lines() -> Iterator[list[str]]:
    """Yield lines with one wrong photo, and without any."""
    known = load_module("cli/test_errors.py").BAD_FILES
    pictures = [name for name in known if name.endswith(".png") and name != "folder.png"]
    base = _base("stylize", "")
    rest = [word for word in base[1:] if word != "photo.png"]
    for photo in (*_bad(pictures, PICTURES), *WRONG_FILES[:-1], "https://example.com/a.jpg", str(LORA), "-"):
        yield ["stylize", photo, *rest]
    yield ["stylize", *rest]
    yield ["stylize", "--quiet", "photo.png"]
    yield [*base, "--", "--size", "3"]
    yield ["--quiet", *base]


def _picture_lines() -> Iterator[list[str]]:
    """Yield lines of a training with wrong pictures, and without any."""
    rest = [word for word in BASES["train-style"][1:] if word != "pictures"]
    for folder in (*_bad(PICTURES), *WRONG_FILES, "few", "bad/words.png", str(LORA), "styles"):
        if folder != ".":
            yield ["train-style", folder, *rest]
    yield ["train-style", *rest]
    yield ["train-style", "pictures"]
    yield ["train-style", "pictures", "pictures", *rest]


def _other_lines() -> Iterator[list[str]]:
    """Yield lines of the other commands, and of none."""
    for command in ("styilze", "", " ", "train", "resume", "--versoin", "-x", "photo.png", RAW, LONG, "help", "--"):
        yield [command]
    known = load_module("cli/test_errors.py").BAD_FILES
    endings = (".pt", ".ckpt", ".safetensors")
    adapters = [name for name in known if name.endswith(endings) and name != "sdxl.safetensors"]
    for file in (*_bad(adapters, STYLES), *WRONG_FILES, "photo.png", "pictures"):
        yield ["inspect", file]
        yield ["inspect", "--json", file]
    yield ["inspect"]
    yield ["inspect", str(LORA), str(LORA)]
    for command in ("styles", "doctor"):
        yield from ([command, *more] for more in (["extra"], ["--quiet"], ["--json=1"], ["--style", "a"], ["-j"]))


def make_lines() -> list[list[str]]:
    """Return all bad command lines, each once."""
    lines = [*_photo_lines(), *_picture_lines(), *_other_lines()]
    for command in BASES:
        for option in _options(command):
            lines += [*_option_lines(command, option), *_resume_lines(command, option)]
    for command in filter(_exists, LINES):
        lines += [line for option in _options(command) for line in _other_option_lines(command, option)]
    lines += whole_lines()
    return [list(line) for line in dict.fromkeys(map(tuple, lines))]


def judge(outcome: Outcome, *, prints: bool = False) -> str:
    """Return what is wrong with how a line ended; empty if nothing is.

    Args:
        outcome: of the line.
        prints: whether something may be on standard output: `inspect` describes what cannot be used.
    """
    told = outcome.err.splitlines()
    errors, hints = ([line for line in told if line.startswith(start)] for start in ("error: ", "hint: "))
    others = [line for line in told if not line.startswith(("error: ", "hint: ", "note: ", "warning: "))]
    checks = (
        (outcome.code < 0, f"killed by signal {-outcome.code}, or took more than {SECONDS:.0f} s"),
        ("Traceback" in outcome.err or outcome.code == CRASH, "a traceback"),
        (outcome.code == 0, "it was accepted"),
        (outcome.code not in (0, 1, 2, CRASH) and outcome.code > 0, f"exit code {outcome.code}"),
        (len(errors) != 1 or len(hints) != 1, f"{len(errors)} lines error:, {len(hints)} lines hint:"),
        (bool(others), f"other lines: {others[:1]}"),
        (bool(outcome.out) and not prints, "something on standard output"),
        (bool(outcome.left), f"files were left: {', '.join(outcome.left[:3])}"),
        (any(len(line) > 3000 for line in told), "a line of more than 3000 letters"),
    )
    return next((reason for is_so, reason in checks if is_so), "")


def run(place: Path, count: int, seed: int = 0) -> Tally:
    """Try so many bad command lines, or all."""
    from stylescore.cli.main import exit_code

    lines = make_lines()
    if 0 < count < len(lines):
        lines = random.Random(seed).sample(lines, count)
    tally = Tally("bad command lines")
    for line in lines:
        outcome = attempt(place, lambda words=line: exit_code(words))  # type: ignore[misc]
        tally.count()
        if reason := judge(outcome, prints=line[0] == "inspect"):
            shown = " ".join(ascii(word[:60]) if not word.isprintable() or " " in word else word[:60] for word in line)
            last = "".join(outcome.err.strip().splitlines()[-1:])[:200] if "traceback" in reason else ""
            tally.fail(f"{shown}: {reason} {last}".rstrip())
    return tally
