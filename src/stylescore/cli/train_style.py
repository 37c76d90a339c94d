"""`stylescore train-style`: pictures of one style in, a style LoRA out."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from stylescore.catalog.registry import user_styles_dir
from stylescore.cli.options import parse_settings
from stylescore.cli.output import require_writable
from stylescore.cli.resume import print_resume, refuse_with_resume
from stylescore.cli.signals import Interrupts
from stylescore.config.ranges import check_texts
from stylescore.errors import ConfigError
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.training.cache import Cache
    from stylescore.training.config import StyleTrainingConfig
    from stylescore.training.folder import TrainingFolder, TrainingSettings
    from stylescore.training.loop import TrainStep
    from stylescore.training.plan import Plan, Request
    from stylescore.training.session import BaseModel, SavedStyle, Session

Training = TypeVar("Training")
WHAT = "What to learn"
HOW = "How"
WHERE = "Where and how loud"
NUMBERS = (
    *("name", "trigger", "model", "rank", "alpha", "targets", "resolution", "steps", "batch", "learning_rate", "loss"),
    *("crop", "flip", "buckets", "gradient_checkpointing", "seed", "device", "dtype"),
    *("samples_every", "checkpoint_every"),
)
"""Options that are fields of the training's configuration."""
_SINGLE = (
    "one picture: expect its colours and texture, and some of its motifs too, the more the longer it is trained; "
    "compare the sample sheets, or use it with a lower --style-strength"
)
_SINGLE_B_LORA = (
    "one picture: both blocks of B-LoRA are trained, and the style's is written; expect its colours and manner without "
    "its motifs"
)


@dataclass(frozen=True)
class Options:
    """How the command behaves: where it makes its folder, and how much it prints."""

    output: Path
    json: bool
    quiet: bool


def train_style(
    pictures: Annotated[
        Path | None,
        typer.Argument(
            metavar="PICTURES",
            help="Folder with pictures of one style, or one picture.",
            show_default=False,
            parser=parse_path,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the style.", rich_help_panel=WHAT)] = None,
    trigger: Annotated[
        str | None, typer.Option(help="Trigger words of the style; else its name.", rich_help_panel=WHAT)
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(help="One caption for all pictures; else files and tables beside them.", rich_help_panel=WHAT),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE", help="CSV, TSV or JSON with file and caption.", rich_help_panel=WHAT, parser=parse_path
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STYLE|FILE|RUN",
            help="LoRA to go on from: rank and layers are its own.",
            rich_help_panel=WHAT,
        ),
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
        str | None, typer.Option(metavar="attention|attention+conv|b-lora", help="Adapted layers.", rich_help_panel=HOW)
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the square crops, in pixels.", rich_help_panel=HOW)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of steps; with --resume, the new total.", rich_help_panel=HOW)
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Pictures per step, over all processes.", rich_help_panel=HOW)
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=HOW)] = None,
    loss: Annotated[
        str | None, typer.Option(metavar="plain|min_snr", help="Weight of the timesteps.", rich_help_panel=HOW)
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="centre|random|scales", help="Part of each picture.", rich_help_panel=HOW)
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror pictures at random.", rich_help_panel=HOW)] = False,
    buckets: Annotated[
        bool,
        typer.Option("--buckets", help="Whole pictures in batches of like aspect; none enlarged.", rich_help_panel=HOW),
    ] = False,
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
        Path,
        typer.Option(
            *("--output", "-o"),
            metavar="DIR",
            help="Parent of the training's folder.",
            rich_help_panel=WHERE,
            parser=parse_path,
        ),
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
        Path | None,
        typer.Option(metavar="DIR", help="Resume an interrupted training.", rich_help_panel=WHERE, parser=parse_path),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=WHERE)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors.", rich_help_panel=WHERE)
    ] = False,
) -> None:
    """Train a style LoRA from a folder of pictures.

    The style is written into your style folder, where `stylescore stylize --style NAME` finds it.
    """
    given = dict(locals())
    from stylescore.training.extras import require_extras

    require_extras("train-style")
    options = Options(output, json, quiet or not is_first_process())
    if resume is not None:
        refuse_with_resume(train_style, given, allowed=("steps",))
        with Interrupts(quiet=options.quiet) as interrupts:
            _resume(resume, steps, options, interrupts)
        return
    if pictures is None or name is None:
        missing = "a folder of PICTURES" if pictures is None else "a --name for the style"
        raise ConfigError(f"train-style needs {missing}", hint="stylescore train-style pictures --name my-style")
    with Interrupts(quiet=options.quiet) as interrupts:
        _start(_make_request(given), options, interrupts)


@contextmanager
def reopened(path: Path, read: Callable[[], Training]) -> Iterator[Training]:
    """Read an interrupted training, and hold its folder's lock in the block if this process is the first.

    A lock that a process left when it was killed is removed, also where nothing is left to resume.
    """
    from stylescore.runs.lock import hold, remove_stale_locks

    if is_first_process():
        remove_stale_locks(path.parent)
    read()
    with hold(path) if is_first_process() else nullcontext():
        yield read()


def is_first_process() -> bool:
    """Return whether this process is the one that prints; `accelerate launch` numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _make_request(given: Mapping[str, Any]) -> Request:
    """Return the options as a request; a switch that is off leaves its setting to the family's default."""
    from stylescore.images.captions import CaptionSource
    from stylescore.training.plan import Request

    numbers = {name: None if given[name] is False else given[name] for name in NUMBERS}
    return Request(
        pictures=given["pictures"],
        given=parse_settings(given["setting"] or [], **numbers),
        captions=CaptionSource(given["caption"], given["captions"]),
        strict=given["strict"],
        replace=given["replace"],
        **_find_start(given["start"]),
    )


def _find_start(name: str | None) -> dict[str, Any]:
    """Return the fields of a request on the LoRA that the training goes on from."""
    from stylescore.training.start import find_start

    if name is None:
        return {}
    check_texts({"--from": name})
    path = find_start(name)
    return {"start": path, "start_name": str(path.absolute())}


def _start(request: Request, options: Options, interrupts: Interrupts) -> None:
    """Run a new training."""
    check_texts({"--output": str(options.output)})
    require_writable(options.output)
    require_writable(user_styles_dir(), "set STYLESCORE_STYLES to a folder you may write to")
    from stylescore.runs.lock import hold
    from stylescore.training.plan import make_plan
    from stylescore.training.session import start

    plan = make_plan(request, sheets=4)
    base = _load(plan, options)
    session = start(base, plan, _encode(base, plan, options), options.output)
    with ExitStack() as locks:
        if session.folder is not None:
            locks.enter_context(hold(session.folder.path))
        _run(session, options, interrupts)


def _resume(path: Path, steps: int | None, options: Options, interrupts: Interrupts) -> None:
    """Resume an interrupted training, or make one longer."""
    from stylescore.cli.output import say
    from stylescore.training.plan import make_plan
    from stylescore.training.session import describe_extension, read_training, require_same_inputs, resume

    with reopened(path, lambda: read_training(path, steps)) as (folder, record, state):
        plan = make_plan(_restore_request(record.settings, folder), sheets=4, resumed=True)
        base = _load(plan, options)
        require_same_inputs(record, plan, base)
        if steps is not None:
            say(describe_extension(record), quiet=options.quiet)
        cache = _encode(base, plan, options)
        _run(resume(base, plan, cache, folder, state, None if steps is None else record), options, interrupts)


def _restore_request(settings: TrainingSettings, folder: TrainingFolder) -> Request:
    """Return the request that a training began with."""
    from stylescore.config.toml import to_table
    from stylescore.images.captions import CaptionSource
    from stylescore.training.plan import Request

    table = None if settings.captions is None else Path(settings.captions)
    return Request(
        pictures=Path(settings.pictures),
        given=to_table(settings.config),
        captions=CaptionSource(settings.caption, table),
        strict=settings.strict,
        replace=settings.replace,
        start=None if settings.start is None else folder.start_file,
        start_name=settings.start,
    )


def _load(plan: Plan, options: Options) -> BaseModel:
    """Print what the user should know of the pictures, then load the base model."""
    from stylescore.cli.output import say, silence_libraries

    for line in plan.dataset.left_out:
        say(f"warning: left out {line}", quiet=options.quiet)
    for line in plan.dataset.notes:
        say(f"note: {line}", quiet=options.quiet)
    say(plan.caption_summary, quiet=options.quiet)
    if plan.start is not None:
        say(plan.start.describe(), quiet=options.quiet)
    say(f"loading the base model for {len(plan.dataset.pictures)} pictures ...", quiet=options.quiet)
    silence_libraries()
    from stylescore.training.session import load_base, long_prompts

    base = load_base(plan)
    for note in base.parts.notes:
        say(f"note: {note}", quiet=options.quiet)
    for line in (_describe(base), *_expectations(base, plan)):
        say(line, quiet=options.quiet)
    long = long_prompts(base, plan)
    if long:
        say(f"warning: {len(long)} prompts are longer than the text encoder reads: {long[0]!r}", quiet=options.quiet)
    return base


def _describe(base: BaseModel) -> str:
    """Return a line on the training that is about to begin."""
    config = base.config
    return (
        f"{base.origin.base} ({base.origin.family}): {config.steps} steps of {config.batch} at {config.resolution} "
        f"pixels, rank {config.rank}, {config.targets}, rate {config.learning_rate:g}, on {base.process.device}"
    )


def _expectations(base: BaseModel, plan: Plan) -> Iterator[str]:
    """Yield what the user should know of the sizes of the pictures, and of a style from one picture."""
    if base.config.buckets:
        yield base.buckets.describe()
    if plan.is_single:
        yield _SINGLE_B_LORA if base.config.targets == "b-lora" else _SINGLE


def _encode(base: BaseModel, plan: Plan, options: Options) -> Cache:
    """Encode pictures and prompts under a progress bar."""
    from stylescore.cli.output import progress
    from stylescore.training.session import EncodedPicture, encode

    with progress("encoding", len(plan.dataset.pictures), 0, quiet=options.quiet) as tick:
        for event in encode(base, plan):
            if not isinstance(event, EncodedPicture):
                return event
            tick("")
    raise AssertionError("encoding ends with the cache")


def _run(session: Session, options: Options, interrupts: Interrupts) -> None:
    """Train under a progress bar; an interrupt ends it after the step in progress."""
    from stylescore.cli.output import progress
    from stylescore.training.session import SavedStyle

    trainer = session.trainer
    last, saved = None, None
    try:
        with (
            interrupts.delayed("step"),
            progress(trainer.config.name, trainer.config.steps, trainer.step, quiet=options.quiet) as tick,
        ):
            for event in session.run(lambda: interrupts.requested):
                if isinstance(event, SavedStyle):
                    saved = event
                else:
                    last = event
                    tick(f"loss {event.loss:.3f}")
    except BaseException:
        if session.folder is not None:
            print_resume("train-style", session.folder)
        raise
    if saved is not None:
        _report(saved, session, last, options)


def _report(saved: SavedStyle, session: Session, last: TrainStep | None, options: Options) -> None:
    """Print the path of the style, or everything about it as JSON."""
    from stylescore.cli.output import print_json, print_result, say

    if not options.json:
        print_result(str(saved.style))
        say(f"use it with: {_use_command(session.trainer.config)}", quiet=options.quiet)
        return
    print_json(_to_row(saved, session, last))


def _use_command(config: StyleTrainingConfig) -> str:
    """Return the command that uses a style."""
    model = "" if config.model == "mini" else f" --model {shlex.quote(config.model)}"
    return f"stylescore stylize PHOTO --style {config.name}{model}"


def _to_row(saved: SavedStyle, session: Session, last: TrainStep | None) -> dict[str, Any]:
    """Return the JSON document on a trained style."""
    config, origin = session.trainer.config, session.base.origin
    return {
        "name": config.name,
        "style": str(saved.style),
        "folder": str(saved.folder),
        "trigger": config.trigger,
        "base": origin.base,
        "steps": session.trainer.step,
        "loss": None if last is None else last.loss,
        "pictures": origin.pictures,
        "left_out": list(session.plan.dataset.left_out),
        "data_sha256": origin.data_sha256,
    }
