"""`stylescore stylize`: photos and a style in, pictures out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.options import parse_path, parse_settings, parse_styles, require_style, with_folders_apart
from stylescore.cli.output import add_resume_hint
from stylescore.cli.resume import print_resume, refuse_with_resume
from stylescore.cli.signals import Interrupts
from stylescore.config.method import Method
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, PictureError

if TYPE_CHECKING:
    from stylescore.assembly.sources import Sources
    from stylescore.assembly.stylizer import Stylizer
    from stylescore.images import Photo
    from stylescore.method.state import PictureState
    from stylescore.runs.job import Job, PictureFolder, SavedJob
    from stylescore.runs.runner import Batch, SavedResult

WHAT = "What to make"
HOW = "How"
WHERE = "Where and how loud"
SHARED_FAKE = "note: fake.scope = batch: the pictures of a batch share a fake score, so each depends on the others"
MUCH_LARGER = 1.5
"""A photo so many times the working size loses detail that the user can see."""
FINER = "; a larger --size is finer, and slower"


@dataclass(frozen=True)
class Options:
    """How the command behaves: what it writes, how many pictures make a batch, how much it prints."""

    output: Path
    preview_every: int
    gif: bool
    batch: int
    json: bool
    quiet: bool


def stylize(
    photos: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO...", help="JPEG, PNG and other files.", show_default=False)
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            "-s",
            metavar="NAME|FILE|HUB_ID",
            help="Needed: a style LoRA. Give it again to mix several, with weights as NAME=0.7.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    style_strength: Annotated[
        float | None, typer.Option(help="Factor of the style LoRA.", rich_help_panel=WHAT)
    ] = None,
    prompt: Annotated[str, typer.Option(metavar="CAPTION", help="What the photo shows.", rich_help_panel=WHAT)] = "",
    style_prompt: Annotated[
        str | None, typer.Option(help="Prompt for the style; else the LoRA's trigger words.", rich_help_panel=WHAT)
    ] = None,
    content: Annotated[
        float, typer.Option(metavar="0..1", help="0 strongest style, 1 strongest content.", rich_help_panel=WHAT)
    ] = 0.5,
    size: Annotated[
        int | None,
        typer.Option(help="Short side the model works at, in pixels; more is finer, and slower.", rich_help_panel=WHAT),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Side of the tiles of large pictures; 0 none.", rich_help_panel=HOW)
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model.", rich_help_panel=HOW)
    ] = "mini",
    style_model: Annotated[
        str | None, typer.Option(help="Another base under the style LoRA.", rich_help_panel=HOW)
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="sms|vsd|sds|dds|pds", help="Objective.", rich_help_panel=HOW)
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="For large models: balanced, swift, reference, paper; else the model's own.",
            rich_help_panel=HOW,
        ),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Length of the run.", rich_help_panel=HOW)] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any constant of the preset.", rich_help_panel=HOW),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.", rich_help_panel=HOW)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=HOW)] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=HOW)] = "auto",
    memory: Annotated[
        str,
        typer.Option(metavar="normal|low|offload", help="Less memory, in more time.", rich_help_panel=HOW),
    ] = "normal",
    compile: Annotated[
        str,
        typer.Option(metavar="off|on|graphs", help="Slow start, faster steps on a GPU.", rich_help_panel=HOW),
    ] = "off",
    style_weights: Annotated[
        str,
        typer.Option(
            metavar="auto|adapter|merged", help="Style as an adapter, or merged into a copy.", rich_help_panel=HOW
        ),
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures at once.", rich_help_panel=HOW)] = 1,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Parent of the run folders.", rich_help_panel=WHERE, parser=parse_path
        ),
    ] = Path("out"),
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Continue an interrupted run.", rich_help_panel=WHERE, parser=parse_path),
    ] = None,
    preview_every: Annotated[
        int,
        typer.Option(
            min=0, max=1_000_000, metavar="K", help="Save a preview every K iterations.", rich_help_panel=WHERE
        ),
    ] = 0,
    gif: Annotated[bool, typer.Option("--gif", help="Save an animation of the run.", rich_help_panel=WHERE)] = False,
    preview_model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="Tiny autoencoder for previews.", rich_help_panel=WHERE),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.", rich_help_panel=WHERE)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=WHERE)
    ] = False,
) -> None:
    """Turn photos into pictures in a given style.

    Each photo gets a folder under --output with the picture at the photo's own size, a before/after sheet and
    everything needed to repeat the run.
    """
    given = dict(locals())
    options = Options(output, preview_every, gif, batch, json, quiet)
    if resume is not None:
        refuse_with_resume(stylize, given)
        with Interrupts(quiet=quiet) as interrupts:
            _report(_resume(resume, options, interrupts), options)
        return
    base = RunConfig(
        styles=parse_styles(style or []),
        model=model,
        style_model=style_model,
        preview_model=preview_model,
        style_prompt=style_prompt,
        caption=prompt,
        content=content,
        size=size,
        seed=seed,
    )
    execution = {
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "compile": compile,
        "style_weights": style_weights,
        "tile": tile,
    }
    constants = parse_settings(setting or [], iterations=iterations, style_strength=style_strength)
    with Interrupts(quiet=quiet) as interrupts:
        results = _start(photos or [], base, execution, preset, method, constants, options, interrupts)
        _report(results, options, several=len(photos or []) > 1)


def _start(
    photos: Sequence[Path],
    base: RunConfig,
    execution: Mapping[str, Any],
    preset: str | None,
    method: str | None,
    constants: dict[str, Any],
    options: Options,
    interrupts: Interrupts,
) -> Iterator[SavedResult]:
    """Check everything that can be checked without a model, then load it and run."""
    if not photos:
        raise ConfigError("stylize needs at least one PHOTO", hint="stylescore stylize photo.jpg --style NAME")
    require_style(base.styles)
    from stylescore.assembly.sources import resolve_sources
    from stylescore.cli.output import require_writable, say
    from stylescore.config.presets import METHODS, origin, preset_for, unsuited
    from stylescore.config.ranges import check_run
    from stylescore.config.run import with_options
    from stylescore.config.toml import check_choice, overlay
    from stylescore.images import read_photo

    require_writable(options.output)
    _require_writable_names([*photos, options.output])
    chosen: Method | None = None if method is None else check_choice(method, METHODS, "method")
    run = with_options(base, execution)
    styles = [entry.name for entry in run.styles]
    resolved = overlay(preset_for(run.model, preset, chosen, styles), constants)
    run = check_run(replace(run, method=resolved, preset=origin(run.model, preset, styles)))
    sources = resolve_sources(run)
    opened = [read_photo(photo) for photo in photos]
    _print_notes(opened, options)
    if warning := unsuited(run.model, preset):
        say(f"warning: {warning}", quiet=options.quiet)
    parents = with_folders_apart(photos, options.output)
    stylizer = _load(run, options, sources)
    groups = list(_split(opened, stylizer, options.batch))
    try:
        while groups:
            interrupts.raise_if_requested()
            yield from _begin(stylizer, groups.pop(0), parents, options, interrupts)
    except KeyboardInterrupt:
        _print_not_begun([photo.path for group in groups for photo in group])
        raise


def _print_not_begun(photos: Sequence[Path]) -> None:
    """Print the photos of an interrupted call that have no folder yet."""
    from stylescore.cli.output import say

    if photos:
        say(f"not begun, give them again: {' '.join(shlex.quote(str(path)) for path in photos)}")


def _begin(
    stylizer: Stylizer,
    photos: Sequence[Photo],
    parents: Mapping[Path, Path],
    options: Options,
    interrupts: Interrupts,
) -> Iterator[SavedResult]:
    """Make the run folders of a batch, and run it."""
    from stylescore.runs.job import make_jobs
    from stylescore.runs.lock import hold

    places = [parents[photo.path] for photo in photos]
    jobs = make_jobs(stylizer, photos, places, gif=options.gif, preview_every=options.preview_every)
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(hold(job.folder.path))
        yield from _run(stylizer, jobs, None, options, interrupts)


def _require_writable_names(paths: Sequence[Path]) -> None:
    """Raise `PictureError` for a name that cannot be written into the run's record."""
    from stylescore.config.ranges import has_stray_bytes

    for path in paths:
        if has_stray_bytes(str(path.absolute())):
            raise PictureError(f"the path {str(path)!r} is not valid Unicode", hint="rename the file or folder")


def _print_notes(sources: Sequence[Photo], options: Options) -> None:
    """Print what the user should know about the photos."""
    from stylescore.cli.output import say

    for photo in sources:
        for note in photo.notes:
            say(f"note: {photo.path.name}: {note}", quiet=options.quiet)


def _load(run: RunConfig, options: Options, sources: Sources | None = None) -> Stylizer:
    """Load the models; print which, and what of the prompts the text encoder cuts off."""
    from stylescore.cli.output import say, silence_libraries, working

    say(f"loading {run.model} ...", quiet=options.quiet)
    silence_libraries()
    with working("loading", quiet=options.quiet):
        from stylescore.assembly.stylizer import Stylizer

        stylizer = Stylizer(run, sources)
    place = "merged copy of the network" if stylizer.style_has_network else "unmerged adapter"
    say(f"style: {place}; constants: {run.preset or 'as recorded'}", quiet=options.quiet)
    for rest in dict.fromkeys(stylizer.cut_prompts(run.caption)):
        say(f"warning: the prompt is longer than the text encoder reads; cut off: {rest!r}", quiet=options.quiet)
    return stylizer


def _split(sources: Sequence[Photo], stylizer: Stylizer, limit: int) -> Iterator[Sequence[Photo]]:
    """Yield batches: neighbouring photos of one working size, at most `limit` of them."""
    for _, group in groupby(sources, key=stylizer.working_size):
        photos = list(group)
        for start in range(0, len(photos), limit):
            yield photos[start : start + limit]


def _resume(path: Path, options: Options, interrupts: Interrupts) -> Iterator[SavedResult]:
    """Resume an interrupted run, or all unfinished runs in a folder that is none itself."""
    stylizer = None
    for folders in _find_runs(path):
        interrupts.raise_if_requested()
        with ExitStack() as locks:
            if not _lock(locks, folders, options, alone=folders[0].path == path):
                continue
            saved, states = _read_states(folders)
            run = saved[0].job.record.settings.run
            if stylizer is None or stylizer.run != run:
                stylizer = _load(run, options)
            yield from _continue(stylizer, [entry.job for entry in saved], states, options, interrupts)


def _find_runs(path: Path) -> list[list[PictureFolder]]:
    """Return the runs to resume, batch by batch.

    Raises:
        ConfigError: there is none.
    """
    from stylescore.runs.job import COMMAND, PictureFolder, StylizeSettings, find_unfinished, has_runs
    from stylescore.runs.lock import remove_stale_locks
    from stylescore.runs.record import read_record

    folder = PictureFolder(path)
    if folder.config_file.exists() or not has_runs(path):
        read_record(folder, COMMAND, StylizeSettings)
        return [[folder]]
    remove_stale_locks(path)
    found = find_unfinished(path)
    if not found:
        raise ConfigError(f"every run in {str(path)!r} is finished", hint="there is nothing to resume")
    return found


def _lock(locks: ExitStack, folders: Sequence[PictureFolder], options: Options, *, alone: bool) -> bool:
    """Lock the folders of a batch; return whether no other process holds one.

    Raises:
        InUseError: another process holds the folder that the user named.
    """
    from stylescore.cli.output import say
    from stylescore.runs.lock import InUseError, hold

    try:
        for folder in folders:
            locks.enter_context(hold(folder.path))
    except InUseError as error:
        if alone:
            raise
        say(f"note: left out: {error}", quiet=options.quiet)
        return False
    return True


def _read_states(folders: Sequence[PictureFolder]) -> tuple[list[SavedJob], list[PictureState] | None]:
    """Return the runs of a batch, and the states to resume them from."""
    from stylescore.runs.job import common_states, read_job

    saved = [read_job(folder.path) for folder in folders]
    return saved, common_states(saved)


def _continue(
    stylizer: Stylizer,
    jobs: Sequence[Job],
    states: Sequence[PictureState] | None,
    options: Options,
    interrupts: Interrupts,
) -> Iterator[SavedResult]:
    """Run a batch on from its states, if its models are the same."""
    from stylescore.runs.job import require_same_models

    for job in jobs:
        require_same_models(job, stylizer)
    yield from _run(stylizer, jobs, states, options, interrupts)


def _run(
    stylizer: Stylizer,
    jobs: Sequence[Job],
    states: Sequence[PictureState] | None,
    options: Options,
    interrupts: Interrupts,
) -> Iterator[SavedResult]:
    """Run one batch; when it is interrupted, print how to resume it."""
    from stylescore.cli.output import say, working
    from stylescore.runs.job import is_finished
    from stylescore.runs.runner import Batch

    say(_describe_size(stylizer, jobs[0].photo), quiet=options.quiet)
    if stylizer.run.method.fake.scope == "batch" and (len(jobs) > 1 or states):
        say(SHARED_FAKE, quiet=options.quiet)
    try:
        with working(f"preparing {', '.join(job.photo.path.name for job in jobs)}", quiet=options.quiet):
            batch = Batch.start(stylizer, jobs, states)
        with interrupts.delayed("iteration"), add_resume_hint("stylize", [job.folder for job in jobs]):
            yield from _fit(batch, options, interrupts)
    except KeyboardInterrupt:
        print_resume("stylize", *(job.folder for job in jobs if not is_finished(job.folder)))
        raise


def _fit(batch: Batch, options: Options, interrupts: Interrupts) -> Iterator[SavedResult]:
    """Run a batch under a progress bar; an interrupt ends it after the iteration or the result in progress."""
    from stylescore.cli.output import progress
    from stylescore.method.fit import Iteration

    title = ", ".join(job.photo.path.name for job in batch.jobs)
    total, done, left = batch.fitting.iterations, batch.fitting.iteration, len(batch.jobs)
    with closing(batch.run()) as events, progress(title, total, done, quiet=options.quiet) as tick:
        for event in events:
            if isinstance(event, Iteration):
                tick()
                interrupts.raise_if_requested()
                if event.index + 1 == total:
                    interrupts.delay_until("picture")
            else:
                tick.finish()
                yield event
                left -= 1
                if left:
                    interrupts.raise_if_requested()


def _describe_size(stylizer: Stylizer, photo: Photo) -> str:
    """Return a line on the size the model works at, and the size of the result."""
    size = stylizer.working_size(photo)
    coarse = stylizer.coarse_size(size)
    first = "" if coarse == size else f"{coarse[0]} x {coarse[1]}, then "
    own = photo.picture.size
    resized = "" if own == size else f"; the picture is resized to the photo's {own[0]} x {own[1]}"
    finer = FINER if min(own) >= MUCH_LARGER * min(size) else ""
    return f"size: {first}{size[0]} x {size[1]} pixels{resized}{finer}"


def _report(results: Iterator[SavedResult], options: Options, *, several: bool = False) -> None:
    """Print each picture when it is finished, or all results as one JSON document."""
    from stylescore.cli.output import print_json

    rows = []
    for saved in results:
        rows.append(_to_row(saved))
        if not options.json:
            _print_picture(saved.job, several and not options.quiet)
    if options.json:
        print_json({"pictures": rows})


def _print_picture(job: Job, named: bool) -> None:
    """Print a picture's path; `named` adds the photo it was made from, on stdout only where a person reads it."""
    from stylescore.cli.output import is_terminal, print_result, say

    path = str(job.folder.picture)
    line = f"{job.photo.path} -> {path}"
    if named and not is_terminal():
        say(line)
    print_result(line if named and is_terminal() else path)


def _to_row(saved: SavedResult) -> dict[str, Any]:
    """Return one picture's entry of the JSON document."""
    folder, settings = saved.job.folder, saved.job.record.settings
    return {
        "photo": str(saved.job.photo.path),
        "folder": str(folder.path),
        "picture": str(folder.picture),
        "model_picture": str(folder.model_picture),
        "before_after": str(folder.before_after),
        "gif": str(folder.animation) if settings.gif else None,
        "width": saved.result.picture.width,
        "height": saved.result.picture.height,
        "iterations": settings.run.method.iterations,
        "seed": settings.run.seed,
    }
