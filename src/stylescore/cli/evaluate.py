"""`stylescore evaluate`: photos and stylized pictures in, figures out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylescore.cli.options import parse_names, parse_weights
from stylescore.cli.output import print_json, print_result, progress, require_writable, say, silence_libraries
from stylescore.config.ranges import check_texts
from stylescore.errors import ConfigError, quote
from stylescore_apply.names import parse_path
from stylescore_apply.storage.files import atomic, check_target

if TYPE_CHECKING:
    from stylescore.evaluation.pairs import Pairing
    from stylescore.evaluation.run import Evaluation, Request

Format = Literal["table", "markdown", "csv", "json"]

COMPARED = "What is compared"
MEASURED = "What is measured"
SHOWN = "How it is shown"


def evaluate(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="SOURCE", help="Folder of the photos.", show_default=False, parser=parse_path),
    ] = None,
    stylized: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="STYLIZED...",
            help="Folders of stylized pictures, or of runs.",
            show_default=False,
            parser=parse_path,
        ),
    ] = None,
    style: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Pictures in the style.", rich_help_panel=COMPARED, parser=parse_path),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text for the results; {caption} is a photo's own.", rich_help_panel=COMPARED)
    ] = None,
    source_prompt: Annotated[str, typer.Option(help="Text for the photos.", rich_help_panel=COMPARED)] = "a photo",
    common: Annotated[
        bool, typer.Option("--common", help="Only photos that all folders have.", rich_help_panel=COMPARED)
    ] = False,
    unequal: Annotated[
        bool, typer.Option("--unequal", help="Frechet distances of unequal N too.", rich_help_panel=COMPARED)
    ] = False,
    size: Annotated[
        int, typer.Option(metavar="PIXELS", help="Longest short side compared, 0 for any.", rich_help_panel=COMPARED)
    ] = 512,
    metrics: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Only these.", rich_help_panel=MEASURED)
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE|HUB_ID", help="Weights of a network.", rich_help_panel=MEASURED),
    ] = None,
    list_metrics: Annotated[
        bool, typer.Option("--list", help="List metrics and their weights, and exit.", rich_help_panel=MEASURED)
    ] = False,
    bootstrap: Annotated[
        int, typer.Option(metavar="DRAWS", help="Resamples for intervals, 0 for none.", rich_help_panel=MEASURED)
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the resamples.", rich_help_panel=MEASURED)] = 0,
    batch: Annotated[int, typer.Option(help="Pictures per forward pass.", rich_help_panel=MEASURED)] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=MEASURED)] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=SHOWN)] = False,
    format: Annotated[
        str, typer.Option(metavar="table|markdown|csv|json", help="Form of the figures.", rich_help_panel=SHOWN)
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write there.", rich_help_panel=SHOWN, parser=parse_path),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes.", rich_help_panel=SHOWN)] = False,
) -> None:
    """Measure how good stylized pictures are: content, style, and both.

    Pictures are paired with photos by name. Weights that are missing leave out their metrics only.
    """
    form = _parse_format("json" if json else format)
    if list_metrics:
        _print_list(parse_weights(weights or ()), form)
        return
    if source is None or not stylized:
        raise ConfigError(
            "evaluate needs a folder of photos and one of stylized pictures",
            hint="stylescore evaluate photos out --style style-pictures",
        )
    if output is not None:
        check_target(output)
        require_writable(output.absolute().parent)
    check_texts({"--prompt": prompt, "--source-prompt": source_prompt})
    silence_libraries()
    from stylescore.diffusion.execution.devices import pick_device
    from stylescore.evaluation.pairs import list_pictures
    from stylescore.evaluation.run import Evaluation, Prompts, Request

    folders = _pair_folders(source, stylized, common=common)
    request = Request(
        folders=folders,
        style=() if style is None else tuple(list_pictures(style)),
        prompts=Prompts(after=prompt, before=source_prompt, captions=_captions(folders, prompt, source_prompt)),
        metrics=None if metrics is None else parse_metrics(metrics),
        weights=parse_weights(weights or ()),
        size=size,
        batch=batch,
        device=pick_device(device),
        draws=bootstrap,
        seed=seed,
        unequal=unequal,
    )
    evaluation = Evaluation(request)
    _say_unpaired(folders, quiet=quiet)
    _require_metrics(evaluation, quiet=quiet)
    run_under_bar([evaluation], quiet=quiet)
    _require_metrics(evaluation, quiet=quiet)
    _show(evaluation, form, output, quiet=quiet)


def parse_metrics(text: str) -> tuple[str, ...]:
    """Return the names of `--metrics`.

    Raises:
        ConfigError: there is none, as in an unset variable of the shell.
    """
    names = tuple(parse_names(text))
    if not names:
        raise ConfigError(f"--metrics names no metric: {quote(text)}", hint="leave it out for all of them")
    return names


def _parse_format(text: str) -> Format:
    match text:
        case "table" | "markdown" | "csv" | "json":
            return text
        case _:
            raise ConfigError(
                f"--format must be table, markdown, csv or json, not {quote(text)}", hint="for example --format csv"
            )


def _pair_folders(source: Path, stylized: Sequence[Path], *, common: bool) -> dict[str, Pairing]:
    """Pair every folder with the photos; with `common`, keep the photos that all folders have."""
    from stylescore.evaluation.pairs import list_pictures, list_results, make_pairs

    photos = list_pictures(source)
    names = name_folders(stylized)
    folders = {name: make_pairs(photos, list_results(path)) for name, path in zip(names, stylized, strict=True)}
    if not common:
        return folders
    shared = set.intersection(*({pair.name for pair in pairing.pairs} for pairing in folders.values()))
    if not shared:
        raise ConfigError("no photo has a result in every folder", hint="leave --common out")
    return {name: pairing.only(shared) for name, pairing in folders.items()}


def name_folders(paths: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its base name, or its path where two have the same.

    Raises:
        ConfigError: a folder is given twice.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("a folder of results is given twice", hint="give each one once")
    short = [path.resolve().name for path in paths]
    return [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]


def _captions(folders: Mapping[str, Pairing], *prompts: str | None) -> dict[str, str]:
    """Return the caption beside each photo, if a prompt asks for them.

    Raises:
        ConfigError: a photo has none.
    """
    if not any("{caption}" in (prompt or "") for prompt in prompts):
        return {}
    from stylescore.images.captions import read_captions

    sources = {pair.name: pair.source for pairing in folders.values() for pair in pairing.pairs}
    found = read_captions(list(sources.values()), strict=True).texts
    return {name: found[path] for name, path in sources.items()}


def _say_unpaired(folders: Mapping[str, Pairing], *, quiet: bool) -> None:
    for name, pairing in folders.items():
        for line in pairing.describe():
            say(f"{name}: {line}", quiet=quiet)


def _require_metrics(evaluation: Evaluation, *, quiet: bool) -> None:
    """Refuse an evaluation none of whose metrics can be computed; weights can turn out unreadable while it runs.

    Raises:
        ConfigError: there is none left.
    """
    if evaluation.metrics:
        return
    for line in describe_skipped(evaluation):
        say(line, quiet=quiet)
    first = evaluation.report.skipped[0]
    raise ConfigError(f"no metric can be computed; {first.metric}: {first.reason}", hint=first.hint)


def run_under_bar(evaluations: Sequence[Evaluation], *, quiet: bool) -> None:
    """Run all networks over the pictures of some evaluations, under one progress bar that counts pictures."""
    from stylescore.evaluation.run import run_evaluations

    total = sum(evaluation.total for evaluation in evaluations)
    with progress("evaluate", total, 0, quiet=quiet or total == 0) as bar:
        done = 0
        for step in run_evaluations(evaluations):
            for _ in range(step.done - done):
                bar(step.probe)
            done = step.done


def _show(evaluation: Evaluation, form: Format, output: Path | None, *, quiet: bool) -> None:
    """Print or write the figures; what was left out stands on stderr."""
    from stylescore.evaluation.catalogue import Sampling
    from stylescore.evaluation.differences import compare_to_first

    request, report = evaluation.request, evaluation.report
    differences = compare_to_first(report.scores, request.folders, Sampling(request.draws, request.seed))
    text = format_report(evaluation, differences, form)
    if output is None:
        print_result(text.rstrip("\n"))
    else:
        with atomic(output) as temporary:
            temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        print_result(os.fspath(output))
    for line in describe_skipped(evaluation):
        say(line, quiet=quiet)


def format_report(evaluation: Evaluation, differences: Mapping[str, Any], form: Format) -> str:
    """Return the figures in one of the forms."""
    import json as text_json

    from stylescore.evaluation import tables

    report, metrics = evaluation.report, evaluation.metrics
    match form:
        case "markdown":
            return tables.format_markdown(report, metrics)
        case "csv":
            return tables.format_csv(report, metrics)
        case "json":
            values = {**_settings(evaluation.request), **tables.to_values(report, metrics), "differences": differences}
            return text_json.dumps(values, indent=2)
        case "table":
            lines = tables.format_terminal(report, metrics)
            more = tables.format_differences(differences, next(iter(report.scores)))
            return "\n".join([*lines, "", *more] if more else lines)


def _settings(request: Request) -> dict[str, Any]:
    from stylescore import __version__

    unpaired = {
        name: {"photos_without_result": pairing.without_result, "results_without_photo": pairing.without_photo}
        for name, pairing in request.folders.items()
    }
    prompts = {"prompt": request.prompts.after, "source_prompt": request.prompts.before}
    return {
        "version": __version__,
        "size": request.size,
        "bootstrap": request.draws,
        "seed": request.seed,
        **prompts,
        "unpaired": unpaired,
    }


def describe_skipped(evaluation: Evaluation) -> list[str]:
    """Say which metrics were left out, one line for each reason."""
    reasons: dict[tuple[str, str | None], list[str]] = {}
    for entry in evaluation.report.skipped:
        reasons.setdefault((entry.reason, entry.hint), []).append(entry.metric)
    return [
        f"not computed: {', '.join(names)}: {reason}{f'; hint: {hint}' if hint else ''}"
        for (reason, hint), names in reasons.items()
    ]


def _print_list(weights: Mapping[str, str], form: Format) -> None:
    """List the metrics, what each needs, and whether its weights are here."""
    from stylescore.catalog.places import check_given, locate
    from stylescore.evaluation.catalogue import METRICS
    from stylescore.evaluation.loading import WEIGHTS

    check_given(weights)
    entries = {}
    for name, metric in METRICS.items():
        needed = list(dict.fromkeys(weight for probe in metric.probes for weight in WEIGHTS[probe]))
        missing = [weight for weight in needed if locate(weight, weights) is None]
        entries[name] = {"measures": metric.what, "needs": metric.needs, "weights": needed, "missing": missing}
    if form == "json":
        print_json({"metrics": entries})
        return
    for name, entry in entries.items():
        state = f"missing {', '.join(entry['missing'])}" if entry["missing"] else "ready"
        line = f"{name:<17} {entry['measures']:<38} {state}"
        print_result("\n".join(wrap(line, 80, subsequent_indent=57 * " ", break_on_hyphens=False)))
