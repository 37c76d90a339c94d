"""`stylescore train-style`: pictures of one style in, a style LoRA out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.options import parse_settings
from stylescore.errors import ConfigError

if TYPE_CHECKING:
    from stylescore.training.cache import Cache
    from stylescore.training.config import StyleTrainingConfig
    from stylescore.training.folder import TrainingFolder
    from stylescore.training.loop import TrainStep
    from stylescore.training.plan import Plan, Request
    from stylescore.training.session import Base, Session, Written

WHAT = "What to learn"
HOW = "How"
WHERE = "Where and how loud"
LEFT_TO_RESUME = ("resume", "json", "quiet")
NUMBERS = (
    *("name", "trigger", "model", "rank", "alpha", "targets", "resolution", "steps", "batch", "learning_rate", "loss"),
    *("crop", "flip", "gradient_checkpointing", "seed", "device", "dtype", "samples_every", "checkpoint_every"),
)
"""Options that are fields of the training's configuration."""


@dataclass(frozen=True)
class Manner:
    """How the command behaves: where it keeps its folder, and how much it says."""

    output: Path
    json: bool
    quiet: bool


def train_style(
    pictures: Annotated[
        Path | None, typer.Argument(metavar="PICTURES", help="Folder with pictures of one style.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the style.", rich_help_panel=WHAT)] = None,
    trigger: Annotated[
        str | None, typer.Option(help="Words that call the style; else its name.", rich_help_panel=WHAT)
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help="One caption for all pictures; else .txt beside them.", rich_help_panel=WHAT)
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table with file,caption.", rich_help_panel=WHAT)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail for a picture that cannot be used.", rich_help_panel=WHAT)
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model; else mini.", rich_help_panel=HOW),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the LoRA.", rich_help_panel=HOW)] = None,
    alpha: Annotated[float | None, typer.Option(help="Its alpha; else the rank.", rich_help_panel=HOW)] = None,
    targets: Annotated[
        str | None, typer.Option(metavar="attention|attention+conv", help="Adapted layers.", rich_help_panel=HOW)
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square crops, in pixels.", rich_help_panel=HOW)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Length of the training.", rich_help_panel=HOW)] = None,
    batch: Annotated[int | None, typer.Option(help="Pictures a step, over all processes.", rich_help_panel=HOW)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HOW)] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="plain|min_snr", help="Weight of the timesteps.", rich_help_panel=HOW)
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="centre|random", help="Part of each picture.", rich_help_panel=HOW)
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror pictures at random.", rich_help_panel=HOW)] = False,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=HOW)
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other number of the training.", rich_help_panel=HOW),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.", rich_help_panel=HOW)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=HOW)] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=HOW)] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Parent of the folder kept.", rich_help_panel=WHERE)
    ] = Path("out"),
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an older style of this name.", rich_help_panel=WHERE)
    ] = False,
    samples_every: Annotated[
        int | None, typer.Option(metavar="K", help="Sample sheet every K steps, 0 for none.", rich_help_panel=WHERE)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(metavar="K", help="Checkpoint every K steps.", rich_help_panel=WHERE)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with an interrupted training.", rich_help_panel=WHERE)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=WHERE)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=WHERE)
    ] = False,
) -> None:
    """Train a style LoRA from a folder of pictures.

    The style is written into your style folder, where `stylescore stylize --style NAME` finds it.
    """
    given = dict(locals())
    from stylescore.training.extras import require_extras

    require_extras()
    manner = Manner(output, json, quiet or not first_process())
    if resume is not None:
        refuse_with_resume(given)
        taken_up(resume, manner)
        return
    if pictures is None or name is None:
        lack = "a folder of PICTURES" if pictures is None else "a --name for the style"
        raise ConfigError(f"train-style needs {lack}", hint="stylescore train-style pictures --name my-style")
    started(requested(given), manner)


def first_process() -> bool:
    """Tell whether this process is the one that speaks, by what `accelerate launch` says."""
    return os.environ.get("RANK", "0") == "0"


def refuse_with_resume(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if a training that is to go on is given anything that its folder has fixed."""
    called_otherwise = {"pictures": "PICTURES", "setting": "--set"}
    for name, parameter in signature(train_style).parameters.items():
        if name not in LEFT_TO_RESUME and given[name] not in (parameter.default, []):
            called = called_otherwise.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(
                f"--resume goes on with everything as its folder has it and takes no {called}",
                hint=f"leave out {called}, or begin a new training without --resume",
            )


def requested(given: Mapping[str, Any]) -> Request:
    """Return what the options ask for; a switch that is off leaves its number to the family."""
    from stylescore.training.captions import Words
    from stylescore.training.plan import Request

    numbers = {name: None if given[name] is False else given[name] for name in NUMBERS}
    return Request(
        pictures=given["pictures"],
        given=parse_settings(given["setting"] or [], **numbers),
        words=Words(given["caption"], given["captions"]),
        strict=given["strict"],
        replace=given["replace"],
    )


def started(request: Request, manner: Manner) -> None:
    """Begin a new training and run it."""
    from stylescore.training.plan import make_plan
    from stylescore.training.session import begin

    plan = make_plan(request, sheets=4)
    base = load(plan, manner)
    work(begin(base, plan, encoded(base, plan, manner), manner.output), manner)


def taken_up(path: Path, manner: Manner) -> None:
    """Go on with a training that was interrupted."""
    from stylescore.runs.folder import RunFolder
    from stylescore.training.folder import TrainingFolder
    from stylescore.training.plan import make_plan
    from stylescore.training.session import go_on, require_unchanged, unfinished

    folder = TrainingFolder(RunFolder(path))
    record = folder.read_record()
    unfinished(folder, record)
    plan = make_plan(request_of(folder), sheets=4)
    base = load(plan, manner)
    require_unchanged(record, plan, base)
    work(go_on(base, plan, encoded(base, plan, manner), folder), manner)


def request_of(folder: TrainingFolder) -> Request:
    """Return what was asked for when a training began."""
    from stylescore.config.toml import to_table
    from stylescore.training.captions import Words
    from stylescore.training.plan import Request

    record = folder.read_record()
    words = Words(record.caption, None if record.captions is None else Path(record.captions))
    return Request(
        pictures=Path(record.pictures),
        given=to_table(record.config),
        words=words,
        strict=record.strict,
        replace=record.replace,
    )


def load(plan: Plan, manner: Manner) -> Base:
    """Tell of the pictures, then load the base."""
    from stylescore.cli.output import say, silence_libraries

    for line in plan.survey.left_out:
        say(f"warning: left out {line}", quiet=manner.quiet)
    for line in plan.survey.notes:
        say(f"note: {line}", quiet=manner.quiet)
    say(f"loading the base for {len(plan.survey.pictures)} pictures ...", quiet=manner.quiet)
    silence_libraries()
    from stylescore.training.session import cut_prompts, load_base

    base = load_base(plan)
    say(facts(base), quiet=manner.quiet)
    cut = cut_prompts(base, plan)
    if cut:
        say(f"warning: {len(cut)} prompts are longer than the text encoder reads: {cut[0]!r}", quiet=manner.quiet)
    return base


def facts(base: Base) -> str:
    """Return a line on what is about to happen."""
    config = base.config
    return (
        f"{base.origin.base} ({base.origin.family}): {config.steps} steps of {config.batch} at {config.resolution} "
        f"pixels, rank {config.rank}, {config.targets}, rate {config.learning_rate:g}, on {base.machine.device}"
    )


def encoded(base: Base, plan: Plan, manner: Manner) -> Cache:
    """Encode pictures and prompts under a progress bar."""
    from stylescore.cli.output import progress
    from stylescore.training.session import Encoded, encode

    with progress("encoding", len(plan.survey.pictures), 0, quiet=manner.quiet) as tick:
        for event in encode(base, plan):
            if not isinstance(event, Encoded):
                return event
            tick("")
    raise AssertionError("encoding ends with the cache")


def work(session: Session, manner: Manner) -> None:
    """Train under a progress bar; an interrupt ends it after the step in progress."""
    from stylescore.cli.output import progress, say
    from stylescore.cli.signals import Interrupts
    from stylescore.training.session import Written

    trainer = session.trainer
    last, written = None, None
    try:
        with (
            Interrupts() as interrupts,
            progress(trainer.config.name, trainer.config.steps, trainer.step, quiet=manner.quiet) as tick,
        ):
            for event in session.run(lambda: interrupts.requested):
                if isinstance(event, Written):
                    written = event
                else:
                    last = event
                    tick(f"loss {event.loss:.3f}")
    except BaseException:
        if session.folder is not None and session.folder.checkpoint.is_file():
            say(f"kept; go on with: stylescore train-style --resume {shlex.quote(str(session.folder.path))}")
        raise
    if written is not None:
        report(written, session, last, manner)


def report(written: Written, session: Session, last: TrainStep | None, manner: Manner) -> None:
    """Print where the style lies, or everything about it as JSON."""
    from stylescore.cli.output import print_json, say

    if not manner.json:
        typer.echo(str(written.style))
        say(f"use it with: {advice(session.trainer.config)}", quiet=manner.quiet)
        return
    print_json(row(written, session, last))


def advice(config: StyleTrainingConfig) -> str:
    """Return the command that uses a style."""
    model = "" if config.model == "mini" else f" --model {shlex.quote(config.model)}"
    return f"stylescore stylize PHOTO --style {config.name}{model}"


def row(written: Written, session: Session, last: TrainStep | None) -> dict[str, Any]:
    """Return what a program wants to know of a trained style."""
    config, origin = session.trainer.config, session.base.origin
    return {
        "name": config.name,
        "style": str(written.style),
        "folder": str(written.folder),
        "trigger": config.trigger,
        "base": origin.base,
        "steps": session.trainer.step,
        "loss": None if last is None else last.loss,
        "pictures": origin.pictures,
        "left_out": list(session.plan.survey.left_out),
        "data_sha256": origin.data_sha256,
    }
