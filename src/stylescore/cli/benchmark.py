"""`stylescore benchmark`: photos and methods in, a report of figures, costs and pictures out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.evaluate import parse_metrics, run_under_bar
from stylescore.cli.options import parse_names, parse_settings, parse_styles, parse_weights, require_style
from stylescore.cli.output import print_result, progress, require_writable, say, silence_libraries
from stylescore.cli.photos import Inputs
from stylescore.cli.signals import Interrupts
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, StylescoreError, quote
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.benchmark.grid import Plan, Row
    from stylescore.benchmark.models import Models
    from stylescore.benchmark.results import Found, StyleResults
    from stylescore.cli.batch import Options
    from stylescore.runs.job import Task
    from stylescore.runs.outcomes import Outcome
    from stylescore.runs.workers import Workers

COMPARED = "What is compared"
MADE = "How pictures are made"
MEASURED = "What is measured"
WHERE = "Where"
RUNS = "runs"
MEASURED_ROWS = "measured"


def benchmark(
    photos: Annotated[
        list[str] | None,
        typer.Argument(metavar="PHOTO...", help="Files, folders, or patterns.", show_default=False),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option("--style", "-s", metavar="NAME|FILE|HUB_ID", help="Needed; repeatable.", rich_help_panel=COMPARED),
    ] = None,
    methods: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Methods; see the reference.", rich_help_panel=COMPARED)
    ] = "sms,vsd,sds,dds,pds,sdedit",
    generator: Annotated[
        list[str] | None,
        typer.Option(metavar="[LABEL=]FILE|RUN|STYLE", help="A trained generator too.", rich_help_panel=COMPARED),
    ] = None,
    ablations: Annotated[
        str, typer.Option(metavar="all|none|NAME,NAME", help="Of sms.", rich_help_panel=COMPARED)
    ] = "none",
    knob: Annotated[
        str, typer.Option(metavar="0..1,0..1", help="Stands of the knob.", rich_help_panel=COMPARED)
    ] = "0.25,0.5,0.75",
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Runs of each, from --seed on.", rich_help_panel=COMPARED)
    ] = 1,
    seed: Annotated[int, typer.Option(help="The first seed.", rich_help_panel=COMPARED)] = 0,
    captions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Captions; else those beside.", rich_help_panel=MADE, parser=parse_path),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model.", rich_help_panel=MADE)
    ] = "mini",
    style_model: Annotated[
        str | None, typer.Option(help="Another base under the style LoRA.", rich_help_panel=MADE)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="As for stylize.", rich_help_panel=MADE)
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Of every method.", rich_help_panel=MADE)] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any constant, for every method.", rich_help_panel=MADE),
    ] = None,
    size: Annotated[int | None, typer.Option(help="Short side the model works at.", rich_help_panel=MADE)] = None,
    control_model: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB_ID", help="Of sdedit-edges, -tile.", rich_help_panel=MADE)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=MADE)] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=MADE)] = "auto",
    memory: Annotated[str, typer.Option(metavar="normal|low|offload", help="As for stylize.", rich_help_panel=MADE)] = (
        "normal"
    ),
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures at once.", rich_help_panel=MADE)] = 1,
    workers: Annotated[
        str | None, typer.Option(metavar="ray|ray:N", help="Spread over a Ray cluster.", rich_help_panel=MADE)
    ] = None,
    style_pictures: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="Pictures in a style.", rich_help_panel=MEASURED),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Only these.", rich_help_panel=MEASURED)
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE|HUB_ID", help="Weights of a metric or method.", rich_help_panel=MEASURED),
    ] = None,
    bootstrap: Annotated[int, typer.Option(metavar="DRAWS", help="Resamples.", rich_help_panel=MEASURED)] = 1000,
    shown: Annotated[int, typer.Option(min=1, max=10_000, help="Most photos in the page.", rich_help_panel=WHERE)] = 24,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Runs and report.", rich_help_panel=WHERE, parser=parse_path
        ),
    ] = Path("benchmark"),
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results and errors.", rich_help_panel=WHERE)
    ] = False,
) -> None:
    """Compare methods on photos: every picture an ordinary run, then one page with figures, costs and pictures.

    What is finished is left: the same command goes on, and writes the report.
    """
    if not photos:
        raise ConfigError("benchmark needs at least one PHOTO", hint="stylescore benchmark photos --style NAME")
    styles = parse_styles(style or [])
    require_style(styles, "benchmark")
    require_writable(output)
    silence_libraries()
    from stylescore.benchmark.grid import (
        OWN_GENERATORS,
        Plan,
        Setting,
        file_name,
        make_seeds,
        make_variants,
        require_different,
        style_label,
    )
    from stylescore.benchmark.measuring import Measuring, results_of
    from stylescore.config.run import with_options

    require_different([entry.name for entry in styles])
    names = [style_label(entry.name) for entry in styles]
    measuring = Measuring(
        folders=parse_style_pictures(style_pictures or (), names),
        metrics=() if metrics is None else parse_metrics(metrics),
        weights=parse_weights(weights or ()),
        draws=bootstrap,
        device=device,
        kept=output / MEASURED_ROWS,
    )
    base = with_options(
        RunConfig(styles=styles, model=model, style_model=style_model, control_model=control_model, size=size),
        {"device": device, "dtype": dtype, "memory": memory},
    )
    constants = parse_settings(setting or [], iterations=iterations)
    compared, left_out = parse_names(methods), _ablations(ablations)
    trained = parse_generators(generator or (), compared, [entry.name for entry in styles], seed + seeds - 1)
    runs = [name for name in compared if name not in OWN_GENERATORS]
    plans = [
        Plan.of(
            Setting(
                run=replace(base, styles=(entry,)),
                preset=preset,
                style_picture=measuring.first_picture(style_label(entry.name)),
                constants=constants,
                weights=measuring.weights,
            ),
            make_variants(runs, left_out, trained[entry.name]),
            _numbers(knob),
            make_seeds(seed, seeds),
            output / RUNS / file_name(style_label(entry.name)),
        )
        for entry in styles
    ]
    measuring.check()
    inputs = Inputs(
        names=tuple(photos),
        lists=(),
        recursive=False,
        prompt="",
        caption="files",
        captions=captions,
        caption_model=None,
        mask=None,
        output=output,
        pattern="{photo}-{style}",
    )
    with _told_how_to_go_on():
        with Interrupts(quiet=quiet) as interrupts:
            found = _make(plans, inputs, (batch, workers), interrupts, quiet=quiet)
        evaluations = [measuring.begin(plan, found) for plan in plans]
        run_under_bar(evaluations, quiet=quiet)
    results = [results_of(plan, found, evaluation) for plan, evaluation in zip(plans, evaluations, strict=True)]
    settings = {
        "photos": list(photos),
        "styles": names,
        "methods": methods,
        "generators": {
            style_label(name): {label: file.name for label, file in each.items()} for name, each in trained.items()
        },
        "ablations": ablations,
        "knob": knob,
        "seed": seed,
        "seeds": seeds,
        "model": model,
        "preset": preset,
        "bootstrap": bootstrap,
    }
    _write(results, found, settings, shown, output)


@contextmanager
def _told_how_to_go_on() -> Iterator[None]:
    """Say what an interrupted benchmark needs."""
    try:
        yield
    except KeyboardInterrupt:
        say("the same command goes on, and writes the report when everything is made and measured")
        raise


def _ablations(text: str) -> list[str]:
    from stylescore.benchmark.grid import ABLATIONS

    return {"all": list(ABLATIONS), "none": []}.get(text.strip(), parse_names(text))


def _numbers(text: str) -> list[float]:
    try:
        return [float(name) for name in parse_names(text)]
    except ValueError:
        raise ConfigError(
            f"--knob must be numbers from 0 to 1, not {quote(text)}", hint="--knob 0.25,0.5,0.75"
        ) from None


def parse_style_pictures(texts: Sequence[str], styles: Sequence[str]) -> dict[str, Path]:
    """Parse texts of the form `NAME=DIR`; for a style alone also `DIR`.

    Raises:
        ConfigError: a name that is no style of the call, or one that stands twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.rpartition("=")
        if (not equals or parse_path(text).is_dir()) and len(styles) == 1:
            name, folder = styles[0], text
        if name not in styles:
            raise ConfigError(
                f"--style-pictures must be NAME=DIR with the name of a --style, not {quote(text)}",
                hint=f"the styles are {', '.join(styles)}",
            )
        if name in found:
            raise ConfigError(f"--style-pictures {name} is given twice", hint="leave one of them out")
        found[name] = parse_path(folder)
    return found


def parse_generators(
    texts: Sequence[str], methods: Sequence[str], styles: Sequence[str], last_seed: int
) -> dict[str, dict[str, Path]]:
    """Return the files of the generators of each style, by their labels.

    Args:
        texts: of the form `LABEL=NAME` or `NAME`, where a name is that of a file, a training's folder or a style.
        methods: if `generator` or `mobile` is among them, each style's own one is taken too.
        styles: as they were named.
        last_seed: the largest seed of the benchmark.

    Raises:
        ConfigError: a name is empty, a label stands twice, several styles share generators, or a seed is too large for
            their noise.
        ModelError: there is no such generator, or none of a style.
    """
    from stylescore.benchmark.grid import OWN_GENERATORS, file_name, style_label
    from stylescore.cli.apply import find_generator_file
    from stylescore.cli.fast import require_generator
    from stylescore.storage.texts import is_file, is_folder
    from stylescore_apply.stylizing import Settings

    given: dict[str, Path] = {}
    for text in texts:
        label, equals, name = ("", "", text) if is_file(Path(text)) or is_folder(Path(text)) else text.rpartition("=")
        parse_path(name)
        file = find_generator_file(name)
        label = label if equals else file.stem
        taken = {*map(file_name, (known for known, _ in OWN_GENERATORS.values())), *map(file_name, given)}
        if file_name(label) in taken or not label.strip():
            raise ConfigError(f"--generator needs labels that differ, not {quote(text)}", hint="LABEL=FILE")
        given[label] = file
    if given and len(styles) > 1:
        raise ConfigError(
            "--generator is for a benchmark of one style, a generator is trained for one",
            hint="--methods generator takes the generator of each style, mobile its small network",
        )
    own = [names for method, names in OWN_GENERATORS.items() if method in methods]
    if own or given:
        Settings(seed=last_seed)

    def of_style(style: str) -> dict[str, Path]:
        return {
            label: require_generator(
                f"{style_label(style)}{ending}" if ending else style, otherwise="leave it out of --methods"
            )
            for label, ending in own
        }

    return {style: {**of_style(style), **given} for style in styles}


def _make(
    plans: Sequence[Plan], inputs: Inputs, spread: tuple[int, str | None], interrupts: Interrupts, *, quiet: bool
) -> Found:
    """Make what is missing of the grid, under one bar for all of it."""
    from stylescore.assembly.sources import resolve_sources
    from stylescore.benchmark.models import Models
    from stylescore.benchmark.results import Found
    from stylescore.cli.batch import Options
    from stylescore.cli.photos import check_headers, make_tasks
    from stylescore.evaluation.pairs import index_photos
    from stylescore.runs.workers import connected, parse_workers

    batch, workers = spread[0], parse_workers(spread[1])
    cells = [(plan, *cell) for plan in plans for cell in plan.cells()]
    for cell in cells:
        resolve_sources(cell[-1])  # so that no name is found wrong after the pictures of others
    tasks, _ = make_tasks(inputs, quiet=quiet)
    index_photos([task.photo for task in tasks])  # their base names pair them with their pictures
    options = Options(json=False, quiet=True, batch=batch, workers=spread[1], cost=True)
    headers = check_headers(tasks, plans[0].setting.run, options.output)
    trained = [(plan, row, file) for plan in plans for row, file in plan.generators()]
    found = Found(captions={task.photo.stem: task.caption or "" for task in tasks})
    models = Models()
    with ExitStack() as stack:
        stack.callback(models.close)
        if workers is not None:
            stack.enter_context(connected())
        total = (len(cells) + sum(len(plan.seeds) for plan, *_ in trained)) * len(tasks)
        bar = stack.enter_context(progress("benchmark", total, 0, quiet=quiet))
        for plan, row, file in trained:
            _apply(plan, row, file, tasks, found, (interrupts, bar))
        for plan, row, seed, run in cells:
            placed = [replace(task, parent=plan.parent(row, seed)) for task in tasks]
            for outcome in _outcomes(run, placed, headers, (options, interrupts, workers), models):
                found.add(outcome, plan.style, row, seed)
                bar(f"{plan.style}, {row.key}, {outcome.photo.name}")
    return found


def _apply(
    plan: Plan,
    row: Row,
    generator: Path,
    tasks: Sequence[Task],
    found: Found,
    shown: tuple[Interrupts, Callable[[str], None]],
) -> None:
    """Apply a generator to the photos, with every seed."""
    from stylescore.benchmark.generators import apply_to_photos, open_generator
    from stylescore.cli.apply import say_note

    interrupts, bar = shown
    network = open_generator(generator, plan.setting.run, say_note)
    for seed in plan.seeds:
        placed = [replace(task, parent=plan.parent(row, seed)) for task in tasks]
        for applied in apply_to_photos(network, generator, placed, seed):
            found.add_applied(applied, plan.style, row, seed, generator)
            bar(f"{plan.style}, {row.key}, {applied.photo.name}")
            interrupts.raise_if_requested()


def _outcomes(
    run: RunConfig,
    tasks: Sequence[Task],
    headers: tuple[Mapping[Path, tuple[int, int]], Mapping[Path, StylescoreError]],
    how: tuple[Options, Interrupts, Workers | None],
    models: Models,
) -> Iterator[Outcome]:
    """Make the photos of one row and seed; a photo alone that diverges or needs too much memory fails alone too."""
    from stylescore.assembly.sources import resolve_sources
    from stylescore.cli.batch import Call, make_photos
    from stylescore.runs.outcomes import OF_ONE_PHOTO, collect_failure, failed

    options, interrupts, workers = how
    sources = resolve_sources(run)
    call = Call(run, sources, options, interrupts, headers[0], None, partial(models.load, run, sources))
    errors: list[StylescoreError] = []
    with collect_failure(errors, *OF_ONE_PHOTO, alone=False):
        yield from make_photos(call, tasks, headers[1], workers)
    for error in errors:
        yield failed(tasks[0].photo, error)


def _write(
    results: Sequence[StyleResults], found: Found, settings: Mapping[str, Any], shown: int, output: Path
) -> None:
    """Write the report, and print where it is.

    Raises:
        BatchError: a picture could not be made.
    """
    from stylescore.benchmark.pooling import pool_styles
    from stylescore.benchmark.report import Benchmark, write_report
    from stylescore.diagnostics.doctor import versions
    from stylescore.evaluation.catalogue import Sampling
    from stylescore.runs.outcomes import BatchError

    report = Benchmark(
        styles=results,
        photos=found.photos,
        settings=settings,
        machine=versions(),
        failures=found.failures,
        shown=shown,
        pooled=pool_styles(results, Sampling(settings["bootstrap"], 0)),
    )
    print_result(str(write_report(report, output)))
    for failure in found.failures:
        say(f"not made: {failure.photo}, {failure.row}, seed {failure.seed}: {failure.reason}")
    if found.failures:
        raise BatchError(
            f"{len(found.failures)} of {found.total} pictures were not made",
            hint="the report has the photos that every method made; the same command tries the others again",
        )
