"""`stylescore train-generator`: photos and a style in, a network that stylizes in one forward pass out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.options import parse_settings, parse_styles, require_style
from stylescore.cli.output import require_writable
from stylescore.cli.resume import print_resume, refuse_with_resume
from stylescore.cli.signals import Interrupts
from stylescore.cli.train_style import is_first_process, reopened
from stylescore.config.ranges import check_texts
from stylescore.errors import ConfigError
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.training.generator.folder import GeneratorFolder
    from stylescore.training.generator.pairs import PairFolder
    from stylescore.training.generator.session import Request, SavedGenerator, Session, Setup

WHAT = "What to learn"
HOW = "How"
WHERE = "Where and how loud"
NUMBERS = ("network", "size", "accumulate", "workers", "licence", "samples_every", "checkpoint_every", "keep")
"""Options that are fields of the training's configuration."""
RUN = ("model", "style_model", "style_prompt", "content", "seed", "device", "dtype")
"""Options that are fields of the run that pairs are made with."""


@dataclass(frozen=True)
class Options:
    """How the command behaves: where it makes its folder, and how much it prints."""

    output: Path
    pairs_only: bool
    json: bool
    quiet: bool


def train_generator(
    photos: Annotated[
        Path | None,
        typer.Argument(
            metavar="PHOTOS",
            help="Folder of photos or of .tar shards, or a table file,caption.",
            show_default=False,
            parser=parse_path,
        ),
    ] = None,
    style: Annotated[
        list[str] | None, typer.Option(metavar="NAME|FILE", help="Style, or NAME=WEIGHT.", rich_help_panel=WHAT)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the generator; else the style's.", rich_help_panel=WHAT)
    ] = None,
    style_prompt: Annotated[
        str | None, typer.Option(help="Prompt of the style; else its trigger words.", rich_help_panel=WHAT)
    ] = None,
    caption: Annotated[
        str | None, typer.Option(help="One caption for all photos; else .txt beside them.", rich_help_panel=WHAT)
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Table with file,caption.", rich_help_panel=WHAT, parser=parse_path),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base; else mini.", rich_help_panel=WHAT)
    ] = None,
    style_model: Annotated[
        str | None, typer.Option(metavar="FOLDER|FILE|HUB_ID", help="Base of the style.", rich_help_panel=WHAT)
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="NAME|FILE|RUN",
            help="Generator to go on from, of any style.",
            rich_help_panel=WHAT,
            parser=parse_path,
        ),
    ] = None,
    content: Annotated[
        float | None, typer.Option(help="0 strongest style to 1 strongest content.", rich_help_panel=WHAT)
    ] = None,
    preset: Annotated[
        str, typer.Option(metavar="draft|standard|paper", help="Length and network.", rich_help_panel=HOW)
    ] = "standard",
    network: Annotated[
        str | None,
        typer.Option(metavar="mobile|resnet9|lora", help="Network; lora adapts the base's own.", rich_help_panel=HOW),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="sms|vsd|sds|dds|pds", help="Method of both phases.", rich_help_panel=HOW)
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the square crops, in pixels.", rich_help_panel=HOW)] = None,
    pairs: Annotated[
        int | None, typer.Option(metavar="N", help="Pairs made by the program.", rich_help_panel=HOW)
    ] = None,
    pair_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where pairs are, or are made.", rich_help_panel=HOW, parser=parse_path),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="NAME|FILE|RUN",
            help="Generator that makes the pairs, in place of runs.",
            rich_help_panel=HOW,
            parser=parse_path,
        ),
    ] = None,
    pairs_only: Annotated[
        bool, typer.Option("--pairs-only", help="Make the pairs in --pair-folder and stop.", rich_help_panel=HOW)
    ] = False,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps on pairs, at most.", rich_help_panel=HOW)
    ] = None,
    matching_steps: Annotated[
        int | None, typer.Option(metavar="N", help="Steps of the method, at most.", rich_help_panel=HOW)
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Photos per step, over all processes.", rich_help_panel=HOW)] = None,
    accumulate: Annotated[
        int | None, typer.Option(metavar="N", help="Parts of a batch, for less memory.", rich_help_panel=HOW)
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other number.", rich_help_panel=HOW),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.", rich_help_panel=HOW)] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=HOW)] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=HOW)] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that load photos.", rich_help_panel=HOW)
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="DIR",
            help="Parent of the training's folder.",
            rich_help_panel=WHERE,
            parser=parse_path,
        ),
    ] = Path("out"),
    licence: Annotated[str | None, typer.Option(help="Licence to write into the file.", rich_help_panel=WHERE)] = None,
    samples_every: Annotated[
        int | None, typer.Option(metavar="K", help="Sample sheet every K steps, 0 for none.", rich_help_panel=WHERE)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(metavar="K", help="Saved state every K steps.", rich_help_panel=WHERE)
    ] = None,
    keep: Annotated[
        int | None, typer.Option(metavar="K", help="Generators of saved states to keep.", rich_help_panel=WHERE)
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
    """Train a network that stylizes in one forward pass.

    The program makes pairs of photo and picture, the network learns them, then the method refines it on photos alone.
    """
    given = dict(locals())
    from stylescore.training.extras import require_extras

    require_extras("train-generator")
    options = Options(output, pairs_only, json, quiet or not is_first_process())
    if resume is not None:
        refuse_with_resume(train_generator, given)
        with Interrupts(quiet=options.quiet) as interrupts:
            _resume(resume, options, interrupts)
        return
    if photos is None:
        raise ConfigError("train-generator needs PHOTOS", hint="stylescore train-generator photos --style van-gogh")
    if pairs_only and pair_folder is None:
        raise ConfigError("--pairs-only needs a --pair-folder", hint="add --pair-folder pairs")
    with Interrupts(quiet=options.quiet) as interrupts, TemporaryDirectory() as place:
        _start(_make_request(given, Path(place)), options, interrupts)


def _make_request(given: Mapping[str, Any], place: Path) -> Request:
    """Return the options as a request.

    Args:
        given: the options.
        place: existing folder for files that the training reads until it has its own.

    Raises:
        ConfigError: one that cannot be used.
    """
    from stylescore.assembly.options import make_run
    from stylescore.cli.apply import find_generator_file
    from stylescore.images.captions import CaptionSource
    from stylescore.training.generator.config import resolve
    from stylescore.training.generator.session import Request
    from stylescore.training.generator.start import add_settings, as_generator

    styles = parse_styles(given["style"] or [])
    require_style(styles, "train-generator")
    check_texts({f"--{name}": given[name] for name in ("caption", "licence")})
    table = parse_settings(given["setting"] or [], **{name: given[name] for name in NUMBERS})
    own = table.get("run", {})
    if not isinstance(own, Mapping) or set(own) - {"method"} or not isinstance(own.get("method", {}), Mapping):
        raise ConfigError(
            f"--set run.method.KEY=VALUE sets the method's constants, not {own!r}", hint="use the options"
        )
    chosen = {name: given[name] for name in RUN if given[name] is not None}
    run = make_run(
        {choice.name: choice.weight for choice in styles},
        method=given["method"],
        **chosen,
    )
    source, teacher = (
        None if name is None else find_generator_file(str(name)) for name in (given["start"], given["teacher"])
    )
    start = None if source is None else as_generator(source, place)
    numbers = _merge_counts(table, given)
    given_name = given["name"]
    name = "-".join(Path(choice.name).stem for choice in styles) if given_name is None else given_name
    return Request(
        photos=given["photos"],
        config=resolve(
            {"name": name, **(numbers if start is None else add_settings(numbers, start))}, run, given["preset"]
        ),
        captions=CaptionSource(given["caption"], given["captions"]),
        pair_folder=given["pair_folder"],
        start=start,
        start_name=None if source is None else str(source.absolute()),
        teacher=teacher,
    )


def _merge_counts(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the options that belong to one phase or to both."""
    from stylescore.config.toml import merge_tables

    direct = {
        "pairs": {"count": given["pairs"]},
        "regression": {"steps": given["steps"], "batch": given["batch"]},
        "matching": {"steps": given["matching_steps"], "batch": given["batch"]},
    }
    stated = {key: {k: v for k, v in part.items() if v is not None} for key, part in direct.items()}
    return merge_tables({key: part for key, part in stated.items() if part}, table)


def _start(request: Request, options: Options, interrupts: Interrupts) -> None:
    """Run a new training."""
    require_writable(options.output)
    if request.pair_folder is not None:
        require_writable(request.pair_folder, "choose another --pair-folder")
    from stylescore.runs.lock import hold
    from stylescore.training.generator.pairs import PairFolder
    from stylescore.training.generator.session import new_folder

    setup = _load(request, options)
    if options.pairs_only:
        assert request.pair_folder is not None
        _make_pairs(setup, PairFolder(request.pair_folder), options, interrupts)
        return
    folder = new_folder(setup, options.output)
    with ExitStack() as locks:
        if setup.process.is_main:
            locks.enter_context(hold(folder.path))
        _train(setup, folder, None, options, interrupts)


def _resume(path: Path, options: Options, interrupts: Interrupts) -> None:
    """Resume an interrupted training."""
    from stylescore.training.generator.session import read_training, require_same_inputs, restore_request

    with reopened(path, lambda: read_training(path)) as (folder, record, state):
        setup = _load(restore_request(record.settings, folder), options)
        require_same_inputs(record, setup)
        _train(setup, folder, state, options, interrupts)


def _load(request: Request, options: Options) -> Setup:
    """Find the photos and load the networks."""
    from stylescore.cli.output import say, silence_libraries

    say("finding the photos and loading the models ...", quiet=options.quiet)
    silence_libraries()
    from stylescore.training.generator.session import set_up

    setup = set_up(request)
    for line in setup.photos.left_out:
        say(f"warning: left out {line}", quiet=options.quiet)
    say(_describe(setup), quiet=options.quiet)
    return setup


def _describe(setup: Setup) -> str:
    """Return a line on the training that is about to begin."""
    config = setup.config
    mixed = "" if config.strength == 1 else f" at a strength of {config.strength:g}"
    applied = f", for {config.passes} passes{mixed}" if config.passes > 1 or mixed else ""
    return (
        f"{config.name}: {config.network} at {config.size} pixels, {len(setup.trained)} photos and "
        f"{len(setup.held_out)} held out, {setup.pairs_wanted} pairs, up to {config.regression.steps} + "
        f"{config.matching.steps} steps, on {setup.process.device}{applied}"
    )


def _make_pairs(setup: Setup, pairs: PairFolder, options: Options, interrupts: Interrupts) -> None:
    """Make the missing pairs under a progress bar; an interrupt ends it after the batch in progress."""
    from stylescore.cli.output import progress
    from stylescore.training.generator.session import make_pairs

    present = min(len(pairs.read()), setup.pairs_wanted)
    with (
        interrupts.delayed("pair"),
        progress("pairs", setup.pairs_wanted, present, quiet=options.quiet) as tick,
    ):
        for _ in make_pairs(setup, pairs):
            tick("")
            if interrupts.requested:
                raise KeyboardInterrupt


def _train(setup: Setup, folder: GeneratorFolder, state: Any, options: Options, interrupts: Interrupts) -> None:
    """Make the pairs, then train; whatever ends it early, how to resume is printed."""
    from stylescore.training.generator.session import Session, pair_folder

    try:
        if setup.pairs_wanted:
            _make_pairs(setup, pair_folder(setup, folder), options, interrupts)
        _run(Session.open(setup, folder, state), options, interrupts)
    except BaseException:
        if setup.process.is_main:
            print_resume("train-generator", folder)
        raise


def _run(session: Session, options: Options, interrupts: Interrupts) -> None:
    """Train under a progress bar; an interrupt ends it after the step in progress."""
    from stylescore.cli.output import progress
    from stylescore.training.generator.session import SavedGenerator

    trainer, saved = session.trainer, None
    with (
        interrupts.delayed("step"),
        progress(trainer.config.name, trainer.config.total, trainer.step, quiet=options.quiet) as tick,
    ):
        for event in session.run(lambda: interrupts.requested):
            if isinstance(event, SavedGenerator):
                saved = event
            else:
                best = "" if event.best is None else f", held out {event.best:.3f}"
                tick(f"{event.phase} {event.loss:.3f}{best}")
    if saved is not None:
        _report(saved, session, options)


def _report(saved: SavedGenerator, session: Session, options: Options) -> None:
    """Print the path of the generator, or everything about it as JSON."""
    from dataclasses import asdict

    from stylescore.cli.output import print_json, print_result

    if not options.json:
        print_result(str(saved.file))
        return
    print_json({"generator": str(saved.file), "folder": str(saved.folder), **asdict(session.facts())})
