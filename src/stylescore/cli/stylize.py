"""`stylescore stylize`: photos and a style in, pictures out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.options import parse_embeddings, parse_settings, parse_styles, parse_weights, require_style
from stylescore.cli.photos import Inputs
from stylescore.cli.resume import refuse_with_resume
from stylescore.cli.signals import Interrupts
from stylescore.config.method import ONE_PICTURE, Method
from stylescore.config.output import OutputConfig
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.assembly.sources import Sources
    from stylescore.assembly.stylizer import Stylizer
    from stylescore.cli.batch import Options

WHAT = "What to make"
HOW = "How"
MANY = "Many photos"
WHERE = "Where and how loud"


def stylize(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTO...", help="Files, folders, or patterns such as 'trip/*.jpg'.", show_default=False
        ),
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
    style_image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of styleid, instantstyle, gatys, adain, ghiasi: a picture in the style.",
            rich_help_panel=WHAT,
            parser=parse_path,
        ),
    ] = None,
    style_strength: Annotated[
        float | None, typer.Option(help="Factor of the style LoRA.", rich_help_panel=WHAT)
    ] = None,
    text_strength: Annotated[
        float | None, typer.Option(help="Factor of its text part alone.", rich_help_panel=WHAT)
    ] = None,
    prompt: Annotated[str, typer.Option(metavar="CAPTION", help="What the photo shows.", rich_help_panel=WHAT)] = "",
    style_prompt: Annotated[
        str | None, typer.Option(help="Prompt for the style; else the LoRA's trigger words.", rich_help_panel=WHAT)
    ] = None,
    caption: Annotated[
        str,
        typer.Option(
            metavar="files|auto|none",
            help="Without --prompt: captions beside the photos; auto has a model write those that are missing.",
            rich_help_panel=WHAT,
        ),
    ] = "files",
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Table of captions; else those beside the photos.",
            rich_help_panel=WHAT,
            parser=parse_path,
        ),
    ] = None,
    caption_model: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="BLIP or Florence-2 of --caption auto.", rich_help_panel=WHAT),
    ] = None,
    negative_prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="What guidance moves away from.", rich_help_panel=WHAT)
    ] = "",
    prompt_weights: Annotated[
        str,
        typer.Option(metavar="auto|on|off", help="Whether (word:1.2) in prompts is a weight.", rich_help_panel=WHAT),
    ] = "auto",
    embedding: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Textual inversion; NAME is its word in prompts.", rich_help_panel=WHAT),
    ] = None,
    content: Annotated[
        float, typer.Option(metavar="0..1", help="0 strongest style, 1 strongest content.", rich_help_panel=WHAT)
    ] = 0.5,
    size: Annotated[
        int | None,
        typer.Option(help="Short side the model works at, in pixels; more is finer, and slower.", rich_help_panel=WHAT),
    ] = None,
    keep_colours: Annotated[
        float, typer.Option(metavar="0..1", help="Share of the photo's own colours.", rich_help_panel=WHAT)
    ] = 0.0,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="White is stylized, black stays; one, or one per photo.",
            rich_help_panel=WHAT,
            parser=parse_path,
        ),
    ] = None,
    mask_feather: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Width of the mask's soft edge.", rich_help_panel=WHAT)
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Side of the tiles of large pictures; 0 none.", rich_help_panel=HOW)
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model.", rich_help_panel=HOW)
    ] = "mini",
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Apply the style's trained generator, which is fast.", rich_help_panel=HOW),
    ] = False,
    style_model: Annotated[
        str | None, typer.Option(help="Another base under the style LoRA.", rich_help_panel=HOW)
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            metavar="epsilon|v|sample|flow", help="What the base predicts, if it does not say.", rich_help_panel=HOW
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|FILE|HUB_ID", help="Another autoencoder.", rich_help_panel=HOW),
    ] = None,
    text_encoders: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|HUB_ID", help="Model whose text encoders are used.", rich_help_panel=HOW),
    ] = None,
    clip_skip: Annotated[
        int | None, typer.Option(metavar="N", help="Layer of CLIP, from the last, 1.", rich_help_panel=HOW)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sms, vsd, sds, dds or pds; to compare with: sdedit, styleid, freestyle, instantstyle, gatys, adain, "
            "ghiasi.",
            rich_help_panel=HOW,
        ),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="0..1", help="Of those to compare with, but gatys: 0 the photo.", rich_help_panel=HOW),
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(metavar="edges|tile", help="Of sdedit, instantstyle: a ControlNet.", rich_help_panel=HOW),
    ] = None,
    control_model: Annotated[
        str | None, typer.Option(metavar="FOLDER|HUB_ID", help="Which; else a usual one.", rich_help_panel=HOW)
    ] = None,
    control_scale: Annotated[float, typer.Option(help="Factor of what it adds.", rich_help_panel=HOW)] = 1.0,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE|HUB_ID", help="Network of instantstyle, gatys, adain, ghiasi.", rich_help_panel=HOW
        ),
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
    list_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--list", metavar="FILE", help="File with one photo a line.", rich_help_panel=MANY, parser=parse_path
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Search the folders in a folder too.", rich_help_panel=MANY)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make finished pictures again.", rich_help_panel=MANY)
    ] = False,
    workers: Annotated[
        str | None,
        typer.Option(metavar="ray|ray:N", help="Spread the photos over a Ray cluster.", rich_help_panel=MANY),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Parent of the run folders.", rich_help_panel=WHERE, parser=parse_path
        ),
    ] = Path("out"),
    name: Annotated[
        str,
        typer.Option(
            metavar="PATTERN",
            help="Name of a run folder, of {photo}, {folder}, {style}, {seed}, ...",
            rich_help_panel=WHERE,
        ),
    ] = "{photo}-{style}",
    format: Annotated[
        str, typer.Option(metavar="png|jpeg|webp", help="Of the picture.", rich_help_panel=WHERE)
    ] = "png",
    quality: Annotated[
        int | None, typer.Option(metavar="1..100", help="Of JPEG and WebP; else 90.", rich_help_panel=WHERE)
    ] = None,
    keep_location: Annotated[
        bool, typer.Option("--keep-location", help="Leave the place in the EXIF data.", rich_help_panel=WHERE)
    ] = False,
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
        bool, typer.Option("--quiet", "-q", help="Print only results and errors.", rich_help_panel=WHERE)
    ] = False,
) -> None:
    """Turn photos into pictures in a given style.

    Each photo gets a folder under --output with the picture at the photo's own size, a before/after sheet and
    everything needed to repeat the run.
    """
    given = dict(locals())
    if fast and resume is None:
        from stylescore.cli.fast import stylize_fast

        raise typer.Exit(stylize_fast(stylize, given))
    from stylescore.assembly.options import make_weights
    from stylescore.cli.batch import Options

    if resume is not None:
        refuse_with_resume(stylize, given, allowed=("photos",))
        with Interrupts(quiet=quiet) as interrupts:
            _resume(resume, photos or [], Options(json=json, quiet=quiet), interrupts)
        return
    inputs = Inputs(
        names=tuple(photos or ()),
        lists=tuple(list_file or ()),
        recursive=recursive,
        prompt=prompt,
        caption=caption,
        captions=captions,
        caption_model=caption_model,
        mask=mask,
        output=output,
        pattern=name,
    )
    options = Options(
        json, quiet, preview_every, gif, batch, overwrite, workers, _make_output(format, quality, keep_location)
    )
    base = RunConfig(
        styles=parse_styles(style or []),
        model=model,
        style_model=style_model,
        preview_model=preview_model,
        embeddings=parse_embeddings(embedding or []),
        style_prompt=style_prompt,
        caption=prompt,
        negative_prompt=negative_prompt,
        vae=vae,
        text_encoders=text_encoders,
        clip_skip=clip_skip,
        control_model=control_model,
        style_image=None if style_image is None else str(style_image),
        control_scale=control_scale,
        weights=make_weights(parse_weights(weights or ())),
        content=content,
        size=size,
        seed=seed,
        keep_colours=keep_colours,
        mask_feather=mask_feather,
    )
    execution = {
        "device": device,
        "dtype": dtype,
        "memory": memory,
        "compile": compile,
        "style_weights": style_weights,
        "tile": tile,
        "prediction": prediction,
        "prompt_weights": prompt_weights,
        "control": control,
    }
    constants = parse_settings(
        setting or [], iterations=iterations, style_strength=style_strength, text_strength=text_strength
    )
    with Interrupts(quiet=quiet) as interrupts:
        _start(inputs, base, execution, (preset, method, strength), constants, options, interrupts)


def _make_output(format: str, quality: int | None, keep_location: bool) -> OutputConfig:
    """Return how pictures are written.

    Raises:
        ConfigError: an unknown format, or a quality out of range or for a format that has none.
    """
    from stylescore.config.ranges import check_output
    from stylescore.config.toml import overlay

    if format == "png" and quality is not None:
        raise ConfigError("--quality needs --format jpeg or webp: png loses nothing", hint="leave --quality out")
    given = {"format": format, "keep_location": keep_location, **({} if quality is None else {"quality": quality})}
    return check_output(overlay(OutputConfig(), given))


def _start(
    inputs: Inputs,
    base: RunConfig,
    execution: Mapping[str, Any],
    chosen: tuple[str | None, str | None, float | None],
    constants: dict[str, Any],
    options: Options,
    interrupts: Interrupts,
) -> None:
    """Check everything that can be checked without a model, then load it and run."""
    if not inputs.names and not inputs.lists:
        raise ConfigError("stylize needs at least one PHOTO", hint="stylescore stylize photo.jpg --style NAME")
    if base.style_image is None and chosen[1] not in ONE_PICTURE:
        require_style(base.styles)
    from stylescore.assembly.sources import resolve_sources
    from stylescore.cli.batch import Call, make_photos
    from stylescore.cli.output import require_writable, say
    from stylescore.cli.photos import check_headers, make_tasks, require_writable_names
    from stylescore.cli.report import report
    from stylescore.config.content_knob import with_strength
    from stylescore.config.presets import METHODS, origin, preset_for, unsuited
    from stylescore.config.ranges import check_run
    from stylescore.config.run import with_options
    from stylescore.config.toml import check_choice, overlay
    from stylescore.runs.workers import parse_workers

    require_writable(inputs.output)
    require_writable_names([*inputs.names, inputs.output])
    preset, name, strength = chosen
    method: Method | None = None if name is None else check_choice(name, METHODS, "method")
    run = with_options(base, execution)
    styles = [entry.name for entry in run.styles]
    resolved = with_strength(overlay(preset_for(run.model, preset, method, styles), constants), strength)
    run = check_run(replace(run, method=resolved, preset=origin(run.model, preset, styles)))
    sources = resolve_sources(run)
    workers = parse_workers(options.workers)
    tasks, captioner = make_tasks(inputs, quiet=options.quiet)
    sizes, failures = check_headers(tasks, run, options.written.output)
    if warning := unsuited(run.model, preset):
        say(f"warning: {warning}", quiet=options.quiet)
    call = Call(run, sources, options, interrupts, sizes, captioner, partial(_load, run, options, sources))
    report(make_photos(call, tasks, failures, workers), options, total=len(tasks))


def _resume(path: Path, photos: list[str], options: Options, interrupts: Interrupts) -> None:
    """Resume an interrupted run, or all unfinished ones in a folder."""
    from stylescore.cli.batch import resume_runs
    from stylescore.cli.photos import hash_photos
    from stylescore.cli.report import report

    report(resume_runs(path, hash_photos(photos), options, interrupts, _load), options, total=1)


def _load(run: RunConfig, options: Options, sources: Sources | None = None) -> Stylizer:
    """Load the models; print which."""
    from stylescore.cli.output import say, silence_libraries, working

    say(f"loading {run.method.method if run.method.is_transfer else run.model} ...", quiet=options.quiet)
    silence_libraries()
    with working("loading", quiet=options.quiet):
        from stylescore.assembly.stylizer import Stylizer

        stylizer = Stylizer(run, sources)
    weights = f"; style weights: {'merged' if stylizer.style_has_network else 'adapter'}" if run.styles else ""
    for note in stylizer.notes:
        say(f"note: {note}", quiet=options.quiet)
    say(f"settings: {run.preset or 'as recorded'}{weights}", quiet=options.quiet)
    return stylizer
