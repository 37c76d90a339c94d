"""`stylescore tune`: the content knob that gives a wanted distance, then the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.options import parse_settings, parse_styles, parse_weights, require_style
from stylescore.cli.output import print_result, require_writable, say, silence_libraries, working
from stylescore.cli.stylize import stylize
from stylescore.errors import ConfigError, ModelError, did_you_mean, quote
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.evaluation.tuning import Trial
    from stylescore.metrics import Lpips, PerceptualDistance

METRICS = ("st-lpips", "lpips-alex", "lpips-vgg")
WANTED = "What is wanted"
HOW = "How"


def tune(
    photo: Annotated[
        Path | None,
        typer.Argument(metavar="PHOTO", help="JPEG, PNG and other files.", show_default=False, parser=parse_path),
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option("--style", "-s", metavar="NAME|FILE|HUB_ID", help="Needed: a style.", rich_help_panel=WANTED),
    ] = None,
    distance: Annotated[
        float | None, typer.Option(help="Needed: distance from the photo.", rich_help_panel=WANTED)
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="st-lpips|lpips-alex|lpips-vgg", help="Its kind.", rich_help_panel=WANTED)
    ] = "st-lpips",
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE|HUB_ID", help="Weights of its network.", rich_help_panel=WANTED),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Close enough.", rich_help_panel=WANTED)] = 0.01,
    trials: Annotated[int, typer.Option(help="Most short runs.", rich_help_panel=WANTED)] = 7,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Print the knob's value, make no picture.", rich_help_panel=WANTED)
    ] = False,
    prompt: Annotated[str, typer.Option(metavar="CAPTION", help="What the photo shows.", rich_help_panel=HOW)] = "",
    model: Annotated[
        str, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model.", rich_help_panel=HOW)
    ] = "mini",
    method: Annotated[
        str | None, typer.Option(metavar="sms|vsd|sds|dds|pds|sdedit", help="Objective.", rich_help_panel=HOW)
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="As for stylize.", rich_help_panel=HOW)
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Length of the last run.", rich_help_panel=HOW)] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any constant of the preset.", rich_help_panel=HOW),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Short side of the last run, in pixels.", rich_help_panel=HOW)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random draw.", rich_help_panel=HOW)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=HOW)] = "auto",
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Parent of the run folder.", rich_help_panel=HOW, parser=parse_path
        ),
    ] = Path("out"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no notes.", rich_help_panel=HOW)] = False,
) -> None:
    """Find the --content at which a picture has a wanted distance from its photo, and make that picture.

    Short runs at the model's native resolution halve the range of the knob.
    """
    if photo is None or distance is None:
        missing = "a PHOTO" if photo is None else "a --distance"
        raise ConfigError(f"tune needs {missing}", hint="stylescore tune photo.jpg --style NAME --distance 0.3")
    from stylescore.assembly.options import make_run
    from stylescore.evaluation.tuning import check_search

    styles = parse_styles(style or [])
    require_style(styles, "tune")
    check_search(distance, trials, tolerance)
    if not search_only:
        require_writable(output)
    constants = parse_settings(setting or [], iterations=iterations)
    options: dict[str, Any] = {
        "model": model,
        "method": method,
        "preset": preset,
        "prompt": prompt,
        "seed": seed,
        "device": device,
        "settings": constants,
    }
    weighted = {entry.name: entry.weight for entry in styles}
    make_run(weighted, size=size, **options)  # of the last run, before anything is loaded
    silence_libraries()
    network = _load_network(metric, parse_weights(weights or ()))
    found = _search(photo, weighted, options, network, distance, (trials, tolerance), quiet)
    if search_only:
        print_result(f"{found.content:g}")
        return
    stylize(
        photos=[str(photo)],
        style=style,
        content=found.content,
        prompt=prompt,
        model=model,
        method=method,
        preset=preset,
        iterations=iterations,
        setting=setting,
        size=size,
        seed=seed,
        device=device,
        output=output,
        quiet=quiet,
    )


def _load_network(metric: str, weights: dict[str, str]) -> Lpips | PerceptualDistance:
    """Load the network of a distance.

    Raises:
        ConfigError: there is no such distance, or weights are given that it does not have.
        ModelError: its weights are missing.
    """
    if metric not in METRICS:
        raise ConfigError(f"there is no distance {quote(metric)}", hint=did_you_mean(metric, METRICS))
    import torch

    from stylescore.catalog.places import PLACES, check_given, how_to_get, locate
    from stylescore.evaluation.loading import WEIGHTS, load_probe
    from stylescore.evaluation.probes import LpipsProbe

    check_given(weights)
    for name in weights:
        if name not in WEIGHTS[metric]:
            raise ConfigError(
                f"--metric {metric} has no weights called {quote(name)}",
                hint=f"those of {metric} are called {' and '.join(WEIGHTS[metric])}",
            )
    places = []
    for name in WEIGHTS[metric]:
        found = locate(name, weights)
        if found is None:
            raise ModelError(f"no weights of {PLACES[name].what}", hint=how_to_get(name))
        places.append(found)
    probe = load_probe(metric, places, torch.device("cpu"))
    assert isinstance(probe, LpipsProbe)
    return probe.network


def _search(
    photo: Path,
    styles: dict[str, float],
    options: dict[str, Any],
    network: Lpips | PerceptualDistance,
    wanted: float,
    limits: tuple[int, float],
    quiet: bool,
) -> Trial:
    """Run the search; print every trial, and what was found."""
    from stylescore.assembly.stylizer import Stylizer
    from stylescore.evaluation.tuning import best_trial, make_measure, search_content
    from stylescore.images import read_photo

    opened = read_photo(photo)
    with working("loading", quiet=quiet):
        stylizer = Stylizer.load(styles, **options)
    trials: list[Trial] = []
    with stylizer:
        search = search_content(make_measure(stylizer, opened, network), wanted, trials=limits[0], tolerance=limits[1])
        while (trial := _next_trial(search, quiet)) is not None:
            trials.append(trial)
            say(f"content {trial.content:g}: distance {trial.distance:.3f}", quiet=quiet)
    best = best_trial(trials, wanted)
    say(_describe(trials, best, wanted, limits[1]), quiet=quiet)
    return best


def _next_trial(search: Any, quiet: bool) -> Trial | None:
    with working("a short run", quiet=quiet):
        found: Trial | None = next(search, None)
    return found


def _describe(trials: Sequence[Trial], best: Trial, wanted: float, tolerance: float) -> str:
    """Say what was found, and whether it is what was wanted."""
    if abs(best.distance - wanted) <= tolerance:
        return f"content {best.content:g} gives distance {best.distance:.3f} in a short run"
    reached = f"{min(t.distance for t in trials):.3f} to {max(t.distance for t in trials):.3f}"
    return f"distance {wanted:g} was not reached, short runs gave {reached}; content {best.content:g} is closest"
