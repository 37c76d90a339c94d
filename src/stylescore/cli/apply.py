"""`stylescore apply` and `stylescore export`: pictures from a trained generator, and its file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.inform import JsonOption
from stylescore.cli.output import print_json, print_result, require_writable, say, working
from stylescore.errors import ConfigError, ModelError, did_you_mean, quote, suggest_closest
from stylescore_apply.names import parse_path
from stylescore_apply.storage.files import check_target

if TYPE_CHECKING:
    from stylescore.generators.export import Exported
    from stylescore_apply.networks import Network

PRECISIONS = ("float16", "float32")
PASSED_ON: dict[str, Any] = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "help_option_names": [],
}
"""The options of `apply` are read by stylescore-apply, which also works without this package."""


def apply(context: typer.Context) -> None:
    """Stylize pictures and videos with a trained generator, in one forward pass or a few.

    The same as the program stylescore-apply, which installs without torch; see stylescore apply --help.
    """
    from stylescore.catalog.registry import known_generators
    from stylescore_apply.cli import exit_code

    code = exit_code(
        context.args,
        program="stylescore apply",
        open_network=open_network,
        list_names=lambda: sorted(known_generators()),
    )
    raise typer.Exit(code)


def open_network(name: str, threads: int, model: str | None = None) -> Network:
    """Return the network of a style, an ONNX file, a hub id or a generator.

    A generator's own network is exported beside its file first; a LoRA is run by torch on its base model.

    Args:
        name: as the user gave it.
        threads: number of threads, 0 for one for each core.
        model: base model of a LoRA; `None` takes the one that its file names.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    file = find_generator_file(name)
    if file.suffix != ".safetensors":  # without torch
        from stylescore_apply.networks import OnnxNetwork, refuse_model

        refuse_model(model)
        return OnnxNetwork(file, threads=threads)
    from stylescore.assembly import one_step
    from stylescore.cli.output import silence_libraries

    silence_libraries()
    return one_step.open_network(file, model, threads=threads, note=say_note)


def find_generator_file(name: str) -> Path:
    """Return the file of a generator, exported or not, by a path, a training's folder, a style's name or a hub id.

    Raises:
        ModelError: there is none.
    """
    return _find_generator(Path(name)) or _find_network(name)


def say_note(note: str) -> None:
    """Print what the user should know."""
    say(f"note: {note}")


def _find_network(name: str) -> Path:
    """Return the file of a style's name, a path, or a hub id `owner/name` or `owner/name:FILE`."""
    from stylescore.catalog.hub import GENERATOR_ENDINGS, download_generator, split_hub_file
    from stylescore.catalog.registry import find_generator, generator_dirs, known_generators
    from stylescore.storage.texts import is_file, is_folder
    from stylescore_apply.names import find_network

    hub_id, file = split_hub_file(name)
    own = find_generator(name)
    if own is not None and own.suffix == ".safetensors":
        return own
    is_path = is_file(Path(name)) or is_folder(Path(name)) or (not file and name.endswith(GENERATOR_ENDINGS))
    if hub_id is None or is_path:
        try:
            return find_network(name, generator_dirs())
        except ModelError as error:
            closest = suggest_closest(name, known_generators())
            raise ModelError(str(error), hint=closest or error.hint) from error
    downloaded = download_generator(hub_id, file or None)
    if downloaded.suffix == ".onnx":
        return downloaded
    from stylescore.generators.files import require_generator  # needs torch

    return require_generator(downloaded)


def _find_generator(path: Path) -> Path | None:
    """Return a generator's file if the path names one or its folder; torch is imported for these only."""
    from stylescore.storage.texts import is_folder

    if path.suffix.lower() != ".safetensors" and not is_folder(path):
        return None
    from stylescore.generators.files import find_generator

    return find_generator(path)


def export(
    generator: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE|STYLE", help="A training's folder, a generator's file, or a style with a generator."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.onnx",
            help="File to write; else beside the generator, or STYLE.onnx in the working folder.",
            parser=parse_path,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR|FILE", help="Base model of a LoRA, in place of the one that its file names."),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="float16|float32", help="Of the stored weights; it is run in float32.")
    ] = "float16",
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Write a generator as an ONNX file, which runs without torch in other programs and browsers.

    The file is compared with torch; one that computes something else is not written.
    """
    file, usual = _generator_to_export(generator)
    target = usual if out is None else out
    _check_export(target, precision)
    from stylescore.assembly import one_step
    from stylescore.cli.output import silence_libraries

    silence_libraries()
    with working("exporting", quiet=quiet or json):
        found = one_step.export(file, target, model, half=precision == "float16", note=say_note)
    _report(target, found, precision, json=json, quiet=quiet)


def _generator_to_export(name: str) -> tuple[Path, Path]:
    """Return the generator of a path or a style's name, and the file that is written by default.

    Raises:
        ModelError: there is none, or the style's is exported already.
    """
    from stylescore.catalog.registry import find_generator, known_generators
    from stylescore.generators.files import require_generator
    from stylescore.storage.texts import is_file, is_folder

    path = parse_path(name)
    is_path = is_file(path) or is_folder(path) or bool(path.suffix) or len(path.parts) > 1
    own = None if is_path else find_generator(name)
    if own is None and not is_path:
        raise ModelError(
            f"there is no generator {quote(name)}",
            hint=did_you_mean(name, known_generators()) or "give its file, a training's folder, or a style with one",
        )
    if own is None:
        file = require_generator(path)
        return file, file.with_suffix(".onnx")
    if own.suffix == ".onnx":
        raise ModelError(
            f"the generator of the style {quote(name)} is an ONNX file: {own}", hint="use it as it is, or copy it"
        )
    return own, Path(f"{own.stem}.onnx")


def _check_export(target: Path, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be float16 or float32, not {quote(precision)}", hint="leave it out")
    if target.suffix.lower() != ".onnx":
        raise ConfigError(
            f"the file to write must have a name that ends in .onnx, got {str(target)!r}",
            hint="for example --out van-gogh.onnx",
        )
    check_target(target)
    require_writable(target.parent, "choose another --out")


def _report(target: Path, found: Exported, precision: str, *, json: bool, quiet: bool) -> None:
    from stylescore.generators.export import OPSET

    if json:
        facts = {"file": str(target), "bytes": target.stat().st_size, "opset": OPSET, "precision": precision}
        print_json({**facts, "difference": found.difference, "rounding": found.rounding, "context": found.context})
        return
    if not quiet:
        rounding = f"; rounding the weights changes them by at most {found.rounding:.1g}" if found.rounding else ""
        say(
            f"{target.stat().st_size / 1e6:.1f} MB, opset {OPSET}; pictures in [0, 1] differ from torch's by at most "
            f"{found.difference:.1g}{rounding}"
        )
        print_result(str(target))
