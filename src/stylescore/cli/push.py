"""`stylescore push`: a trained generator, its ONNX file and a model card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from stylescore.cli.inform import JsonOption
from stylescore.cli.output import print_json, print_result, say, working
from stylescore.config.ranges import check_texts
from stylescore.errors import ConfigError, InputError, quote
from stylescore_apply.names import parse_path


def push(
    generator: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A training's folder, or a generator's file.", parser=parse_path)
    ],
    hub_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; it is made if needed.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR|FILE", help="Base model of a LoRA, in place of the one that its file names."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository that only you can see.")] = False,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Of the commit.")
    ] = "Upload a generator",
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Upload a trained generator with its ONNX file and a model card, in one commit.

    Needs a token of the hub, see `hf auth login`. Then `stylescore apply OWNER/NAME photo.jpg` works on every machine.
    """
    from stylescore.catalog.hub import HUB_ID, upload_files

    if HUB_ID.fullmatch(hub_id) is None:
        raise ConfigError(
            f"a repository on the hub has the form owner/name, not {quote(hub_id)}", hint="for example me/van-gogh"
        )
    if not message.strip():
        raise ConfigError("--message must not be empty", hint="leave it out")
    check_texts({"--message": message})
    with TemporaryDirectory() as folder:
        files = _files(generator, model, hub_id, Path(folder), quiet=quiet or json)
        with working("uploading", quiet=quiet or json):
            url = upload_files(hub_id, files, private=private, message=message)
    if json:
        print_json({"url": url, "files": list(files)})
    elif not quiet:
        print_result(url)


def _files(generator: Path, model: str | None, hub_id: str, folder: Path, *, quiet: bool) -> dict[str, Path | bytes]:
    """Return what is uploaded, by its name in the repository.

    Args:
        generator: a training's folder, or a generator's file.
        model: base model of a LoRA; `None` takes the one that its file names.
        hub_id: the repository.
        folder: where the ONNX file of a LoRA is written, if there is none beside it.
        quiet: print no notes.
    """
    from stylescore.generators.card import model_card
    from stylescore.generators.files import read_facts, require_generator

    file = require_generator(generator)
    facts = read_facts(file)
    if not facts.licence:
        say("note: the generator states no licence, so its card has none; train with --licence", quiet=quiet)
    onnx = _export_lora(file, model, folder, quiet=quiet) if facts.is_lora else _exported(file, model)
    made = [] if onnx is None else [onnx]
    card = model_card(facts, hub_id, onnx is not None)
    return {"README.md": card.encode(), **{path.name: path for path in (*made, file)}}


def _exported(file: Path, model: str | None) -> Path:
    """Return the ONNX file beside a generator with a network of its own, made if needed."""
    from stylescore.assembly.one_step import exported
    from stylescore.cli.apply import say_note
    from stylescore_apply.networks import refuse_model

    refuse_model(model)
    return exported(file, say_note)


def _export_lora(file: Path, model: str | None, folder: Path, *, quiet: bool) -> Path | None:
    """Return a LoRA's ONNX file, that beside it or a new one; `None`, and a note, if it cannot be exported.

    A new one does not stay beside the LoRA: there it would take the LoRA's place when its style is applied.

    Raises:
        ModelError: the named base model is not there or does not fit the LoRA.
    """
    from stylescore.assembly.one_step import export, is_current
    from stylescore.cli.apply import say_note
    from stylescore.cli.output import silence_libraries

    beside = file.with_suffix(".onnx")
    if model is None and is_current(beside, file):
        return beside
    silence_libraries()
    try:
        with working("exporting", quiet=quiet):
            export(file, folder / beside.name, model, note=say_note)
    except InputError as error:
        if model is not None:
            raise
        say(f"note: uploaded without an ONNX file: {error}{f'; hint: {error.hint}' if error.hint else ''}", quiet=quiet)
        return None
    return folder / beside.name
