"""`stylescore push`: a trained generator, its ONNX file and a model card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylescore.cli.inform import JsonOption
from stylescore.cli.output import print_json, print_result, say, working
from stylescore.config.ranges import check_texts
from stylescore.errors import ConfigError, quote
from stylescore_apply.names import parse_path


def push(
    generator: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A training's folder, or a generator's file.", parser=parse_path)
    ],
    hub_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; it is made if needed.")],
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
    files = _files(generator, hub_id, quiet=quiet or json)
    with working("uploading", quiet=quiet or json):
        url = upload_files(hub_id, files, private=private, message=message)
    if json:
        print_json({"url": url, "files": list(files)})
    elif not quiet:
        print_result(url)


def _files(generator: Path, hub_id: str, *, quiet: bool) -> dict[str, Path | bytes]:
    """Return what is uploaded, by its name in the repository."""
    from stylescore.cli.apply import exported
    from stylescore.generators.card import model_card
    from stylescore.generators.files import read_facts, require_generator

    file = require_generator(generator)
    facts = read_facts(file)
    if not facts.licence:
        say("note: the generator states no licence, so its card has none; train with --licence", quiet=quiet)
    made = [] if facts.is_lora else [exported(file)]
    return {"README.md": model_card(facts, hub_id).encode(), **{path.name: path for path in (*made, file)}}
